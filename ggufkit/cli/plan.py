"""`ggufkit plan`."""

from pathlib import Path

import click

from ggufkit.cli import console, options


@click.command()
@click.argument("source", type=options.PATH)
@options.type_name
@options.recipe
@options.imatrix
@options.threads
@options.max_memory
@options.allow_requantize
@options.mtp
@options.json_flag
def command(
    *,
    source: Path,
    type_name: str | None,
    recipe: Path | None,
    imatrix: Path | None,
    threads: int | None,
    max_memory: int | None,
    allow_requantize: bool,
    mtp: bool,
    as_json: bool,
) -> None:
    """Show what every tensor of SOURCE would become, the file's size, and what it takes to make and to run it.

    Reads headers only: a 93 GB checkpoint is planned in about a second.
    """
    from ggufkit.reports.plan_text import render
    from ggufkit.reports.result import as_dict
    from ggufkit.workflows.plan import plan

    report = plan(
        source,
        options.chosen_recipe(type_name, recipe),
        imatrix=imatrix,
        threads=threads or 0,
        max_memory=max_memory,
        allow_requantize=allow_requantize,
        mtp=mtp,
    )
    if as_json:
        console.print_json(as_dict(report))
    else:
        console.show(lambda width: render(report, width))
