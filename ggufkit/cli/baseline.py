"""`ggufkit baseline`."""

from pathlib import Path

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
def command(
    *,
    model: Path,
    output: Path,
    text: Path | None,
    n_ctx: int,
    chunks: int | None,
    threads: int | None,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Keep what `compare` and `gate` need of MODEL's predictions, for machines that hold one model at a time."""
    from ggufkit.runtime import footprint
    from ggufkit.runtime.loading import Device
    from ggufkit.workflows.baseline import BaselineSettings, make_baseline

    console.say_memory(lambda: footprint.scored([model], n_ctx))
    settings = BaselineSettings(
        model=model,
        output=output,
        force=force,
        text=text,
        n_ctx=n_ctx,
        chunks=chunks,
        threads=threads,
        device=Device(device),
    )
    with console.progress(f"baseline {model.name}") as update:
        report = make_baseline(settings, update)
    console.show_result(report, as_json=as_json)
