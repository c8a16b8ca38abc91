"""`ggufkit baseline`."""

from pathlib import Path

import click

from ggufkit.cli import console, options


@click.command()
@click.argument("model", type=options.PATH)
@click.option("-o", "--output", type=options.OUTPUT, required=True, help="The baseline file to write.")
@options.grouped("reading", options.Reading)
@click.option("--force", is_flag=True, help="Replace an existing output.")
@options.json_flag
def command(*, model: Path, output: Path, reading: options.Reading, force: bool, as_json: bool) -> None:
    """Keep what `compare` and `gate` need of MODEL's predictions, for machines that hold one model at a time."""
    from ggufkit.runtime import footprint
    from ggufkit.workflows.baseline import BaselineSettings, make_baseline

    console.say_memory(lambda: footprint.scored([model], reading.n_ctx))
    settings = BaselineSettings(model=model, output=output, force=force, **reading.settings)
    with console.progress(f"baseline {model.name}") as update:
        report = make_baseline(settings, update)
    console.show_result(report, as_json=as_json)
