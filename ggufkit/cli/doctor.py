"""`ggufkit doctor`."""

import click

from ggufkit.cli import console, options


@click.command()
@click.option("--probe", is_flag=True, help="Try the engine's quantized kernels again, in a process of its own.")
@options.json_flag
def command(*, probe: bool, as_json: bool) -> None:
    """Show what was found on this machine, what was chosen, and what it costs."""
    from ggufkit.runtime.doctor import examine

    report = examine(probe=probe)
    console.show_result(report, as_json=as_json)
