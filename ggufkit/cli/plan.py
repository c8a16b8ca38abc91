"""`ggufkit plan`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ggufkit.cli import console, options

if TYPE_CHECKING:
    from ggufkit.fitting.encoders import Effort


@click.command()
@click.argument("source", type=options.PATH)
@options.type_name
@options.recipe
@options.imatrix
@options.target_size
@options.target_bpw
@click.option(
    "--effort",
    type=click.Choice(["fast", "balanced", "best"]),
    default=None,
    help="Plan calibration and fitting, too: readings, memory, disk and time, by what one layer takes here.",
)
@click.option(
    "--tokens",
    "n_tokens",
    type=click.IntRange(min=512),
    default=None,
    help="With --effort: calibration tokens at most.  [default: 100000]",
)
@options.threads
@options.max_memory
@options.allow_requantize
@options.mtp
@options.lora
@options.json_flag
def command(
    *,
    source: Path,
    type_name: str | None,
    recipe: Path | None,
    imatrix: Path | None,
    target_size: int | None,
    target_bpw: float | None,
    effort: str | None,
    n_tokens: int | None,
    threads: int | None,
    max_memory: int | None,
    allow_requantize: bool,
    mtp: bool,
    lora: tuple[tuple[Path, float], ...],
    as_json: bool,
) -> None:
    """Show what every tensor of SOURCE would become, the file's size, and what it takes to make and to run it.

    Reads headers only: a 93 GB checkpoint is planned in about a second, and a folder without its weights will do. With
    --effort some seconds go to trying one layer. With a target the types are a guess: quantize measures them first.
    """
    from ggufkit.errors import UsageError
    from ggufkit.recipes.search import Target
    from ggufkit.workflows.plan import plan

    has_target = target_size is not None or target_bpw is not None
    if target_size is not None and target_bpw is not None:
        raise UsageError("give one of --target-size and --target-bpw")
    if has_target and (type_name or recipe):
        raise UsageError("a target chooses the types itself. Leave out --type and --recipe, or the target.")
    report = plan(
        source,
        options.chosen_recipe(type_name, recipe),
        imatrix=imatrix,
        threads=threads or 0,
        max_memory=max_memory,
        allow_requantize=allow_requantize,
        mtp=mtp,
        target=Target(nbytes=target_size, bpw=target_bpw) if has_target else None,
        lora=lora,
        effort=_effort(effort, n_tokens),
        n_tokens=n_tokens,
    )
    console.show_result(report, as_json=as_json)


def _effort(effort: str | None, n_tokens: int | None) -> "Effort | None":
    from ggufkit.errors import UsageError

    if effort is None and n_tokens is not None:
        raise UsageError("--tokens is how much text is calibrated on. Give an --effort with it, or leave it out.")
    if effort is None:
        return None
    from ggufkit.fitting.encoders import Effort

    return Effort(effort)
