"""`ggufkit report`."""

from pathlib import Path

import click

from ggufkit.cli import console, options


@click.command()
@click.argument("results", type=options.PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=options.OUTPUT, required=True, help="The HTML file to write.")
def command(*, results: tuple[Path, ...], output: Path) -> None:
    """Make one HTML page of RESULTS, JSON files of `ggufkit gate`: verdict, curves, heat maps, worst passages.

    The first is shown in full, the others beside it. The page needs no network and no script. Needs matplotlib:
    pip install 'ggufkit[report]'.
    """
    from ggufkit.formats.atomic import write_atomic
    from ggufkit.reports import html
    from ggufkit.reports.result import load, require_comparable
    from ggufkit.reports.units import human_bytes

    loaded = [load(path) for path in results]
    require_comparable(loaded)
    page = html.render(loaded).encode()
    write_atomic(output, [page])
    console.say(f"{output}: {human_bytes(len(page))}")
