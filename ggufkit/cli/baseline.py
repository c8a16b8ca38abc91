"""`ggufkit baseline`."""

from pathlib import Path
from typing import Any

import click

from ggufkit.cli import console, options


@click.command()
@click.argument("model", type=options.PATH)
@click.option("-o", "--output", type=options.OUTPUT, required=True, help="The baseline file to write.")
@options.text_file
@options.ctx_size
@options.chunks
@options.threads
@options.device
@click.option("--force", is_flag=True, help="Replace an existing output.")
@options.json_flag
def command(*, model: Path, device: str, as_json: bool, **settings: Any) -> None:
    """Keep what `compare` and `gate` need of MODEL's predictions, for machines that hold one model at a time."""
    from ggufkit.reports.baseline_text import render
    from ggufkit.reports.result import as_dict
    from ggufkit.runtime import footprint
    from ggufkit.runtime.engine import Device
    from ggufkit.workflows.baseline import BaselineSettings, make_baseline

    console.say_memory(lambda: footprint.scored([model], settings["n_ctx"]))
    with console.progress(f"baseline {model.name}") as update:
        report = make_baseline(BaselineSettings(model=model, device=Device(device), **settings), update)
    if as_json:
        console.print_json(as_dict(report))
    else:
        console.show(lambda _: render(report))
