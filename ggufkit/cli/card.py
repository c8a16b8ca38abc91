"""`ggufkit card`."""

from pathlib import Path

import click

from ggufkit.cli import console, options


@click.command()
@click.argument("results", type=options.PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=options.OUTPUT, default=None, help="The README.md to write. Default: stdout.")
@click.option(
    "--base-model",
    default=None,
    metavar="ORG/NAME",
    help="The original on the hub. Default: what the source's card names.",
)
@click.option(
    "--license", "license_name", default=None, help="As the hub spells it: apache-2.0. Default: the source's."
)
def command(
    *, results: tuple[Path, ...], output: Path | None, base_model: str | None, license_name: str | None
) -> None:
    """Make a model card of RESULTS, JSON files of `ggufkit gate`: what was measured, and how to measure it again."""
    from ggufkit.errors import UsageError
    from ggufkit.formats.atomic import write_atomic
    from ggufkit.formats.files import is_local
    from ggufkit.reports import card
    from ggufkit.reports.result import load, require_comparable

    base_model = base_model and base_model.removeprefix("https://huggingface.co/")
    if base_model is not None and (not base_model or is_local(base_model) or "://" in base_model):
        raise UsageError(f"--base-model is {base_model!r}, wanted the original's name on the hub: org/name.")
    loaded = [load(path) for path in results]
    require_comparable(loaded)
    text = card.render(loaded, base_model=base_model, license_name=license_name)
    if output:
        write_atomic(output, [text.encode()])
        console.say(f"{output}: card of {len(loaded)} file{'s' * (len(loaded) > 1)}")
    else:
        click.echo(text, nl=False)
