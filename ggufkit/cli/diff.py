"""`ggufkit diff`."""

from pathlib import Path

import click

from ggufkit.cli import console, options


@click.command()
@click.argument("base", type=options.PATH)
@click.argument("candidate", type=options.PATH)
@click.option("--weights/--no-weights", default=True, help="Compare weights too, not headers alone.")
@click.option("--full", is_flag=True, help="List every tensor.")
@options.threads
@options.json_flag
def command(*, base: Path, candidate: Path, weights: bool, full: bool, threads: int | None, as_json: bool) -> None:
    """Show what differs between BASE and CANDIDATE without running either: tensors, experts, metadata, tokens.

    BASE is a Hugging Face folder or a GGUF. Exit code 3 where a difference makes CANDIDATE another model.
    """
    from ggufkit.workflows.diff import DiffSettings, diff

    with console.progress(f"diff {candidate.name}") as update:
        report = diff(DiffSettings(base=base, candidate=candidate, weights=weights, threads=threads), update)
    console.show_result(report, as_json=as_json, full=full)
    if report.errors:
        raise SystemExit(3)
