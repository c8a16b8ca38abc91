"""`ggufkit doctor`."""

import click

from ggufkit.cli import console, options


@click.command()
@click.option("--probe", is_flag=True, help="Try the engine's quantized kernels again, in a process of its own.")
@options.json_flag
def command(*, probe: bool, as_json: bool) -> None:
    """Show what was found on this machine, what was chosen, and what it costs."""
    from ggufkit.reports.doctor_text import render
    from ggufkit.reports.result import as_dict
    from ggufkit.runtime.doctor import examine

    report = examine(probe=probe)
    if as_json:
        console.print_json(as_dict(report))
    else:
        console.show(lambda _: render(report))
