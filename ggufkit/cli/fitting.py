"""Options of `ggufkit quantize` that calibrate and choose types, and the run that they ask for."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ggufkit.cli import console, options

if TYPE_CHECKING:
    from ggufkit.encoding.settings import QuantizeSettings
    from ggufkit.formats.model import Model
    from ggufkit.recipes.search import Target
    from ggufkit.workflows.fit_plan import FitPlan
    from ggufkit.workflows.fit_settings import FitSettings
    from ggufkit.workflows.fitted import FitReport


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What is asked of calibration, in the order of the help."""

    calibrate: bool = options.option(
        "--calibrate", is_flag=True, help="Calibrate first and fit every expert to its own inputs."
    )
    effort: str | None = options.option(
        "--effort", type=click.Choice(["fast", "balanced", "best"]), default=None,
        help="fast: importance; balanced, best: error feedback. Implies --calibrate.  [default: balanced]",
    )  # fmt: skip
    calibration_text: tuple[Path, ...] = options.option(
        "--calibration-text", type=options.PATH, multiple=True,
        help="UTF-8 text to calibrate on, repeatable. Default: the shipped text.",
    )  # fmt: skip
    n_tokens: int = options.option(
        "--tokens", "n_tokens", type=click.IntRange(min=512), default=100_000, show_default=True,
        help="At most so many calibration tokens, spread over the text.",
    )  # fmt: skip
    target_size: int | None = options.shared(options.target_size)
    target_bpw: float | None = options.shared(options.target_bpw)
    max_kld: float | None = options.option(
        "--max-kld", type=click.FloatRange(min=0.0, min_open=True), default=None,
        help="Choose types for the smallest file with this predicted KL divergence (nats).",
    )  # fmt: skip
    stream: str = options.option(
        "--stream", type=click.Choice(["original", "stored"]), default="original", show_default=True,
        help="What a layer is fitted to: what the source's layers before it give, or the output's.",
    )  # fmt: skip
    evidence: Path | None = options.option(
        "--evidence", type=options.PATH, default=None,
        help="A folder where evidence stays: the next file of the same source and text skips calibration. Implies "
        "--calibrate.",
    )  # fmt: skip
    save_recipe: Path | None = options.option(
        "--save-recipe", type=options.OUTPUT, default=None, help="Write the types that were chosen as TOML."
    )

    @property
    def targets(self) -> "Target":
        """What types are to be chosen for; all None where the types are given."""
        from ggufkit.recipes.search import Target

        return Target(nbytes=self.target_size, bpw=self.target_bpw, kld=self.max_kld)

    @property
    def has_target(self) -> bool:
        """Whether types are to be chosen."""
        return any(value is not None for value in (self.target_size, self.target_bpw, self.max_kld))

    @property
    def is_asked(self) -> bool:
        """Whether any of the options asks for calibration."""
        return bool(self.calibrate or self.effort or self.has_target or self.stream != "original" or self.evidence)


def prepared(settings: "FitSettings", model: "Model") -> "FitPlan":
    """The plan for a model that is open, its cost said."""
    from ggufkit.workflows.fit_plan import FitPlan

    plan = FitPlan(settings, model)
    plan.check_place()  # before seconds go by
    _say_cost(plan)
    return plan


def run(plan: "FitPlan", save_recipe: Path | None) -> "FitReport":
    """Calibrate, choose, encode; returns the FitReport."""
    from ggufkit.workflows.fitted import carry_out

    output = plan.settings.quantize.output
    with console.progress(f"quantize {output.name}") as update, resumable(output):
        report = carry_out(plan, update)
    if save_recipe and report.found is not None:
        _save(save_recipe, report.found.recipe.to_toml())
    return report


def settings_of(settings: "QuantizeSettings", chosen: FitOptions, *, type_given: bool) -> "FitSettings":
    """What the options ask for. Raises UsageError for options that contradict each other."""
    from ggufkit.errors import UsageError
    from ggufkit.fitting.encoders import Effort
    from ggufkit.fitting.sources.layer_by_layer import Stream
    from ggufkit.workflows.fit_settings import FitSettings

    if sum(value is not None for value in chosen.targets) > 1:
        raise UsageError("give one of --target-size, --target-bpw and --max-kld")
    if chosen.has_target and type_given:
        raise UsageError("a target chooses the types itself. Leave out --type and --recipe, or the target.")
    if settings.imatrix is not None:
        raise UsageError("--imatrix and --calibrate exclude each other: calibration gathers its own evidence.")
    if chosen.save_recipe and not chosen.has_target:
        raise UsageError("--save-recipe writes the types that a target chose. Give a target with it.")
    if chosen.evidence is not None and chosen.evidence.is_file():
        raise UsageError(f"--evidence: {chosen.evidence} is a file, a folder is wanted.")
    return FitSettings(
        quantize=settings,
        effort=Effort(chosen.effort or "balanced"),
        text=chosen.calibration_text,
        n_tokens=chosen.n_tokens,
        target=chosen.targets if chosen.has_target else None,
        stream=Stream(chosen.stream),
        evidence=chosen.evidence,
    )


@contextmanager
def resumable(output: Path) -> Iterator[None]:
    """Say how to go on where Ctrl-C leaves an unfinished file."""
    from ggufkit.formats.unfinished import kept_path, partial_path
    from ggufkit.runtime import boundary

    boundary.leave(f"What was finished is kept. Continue with --resume: {_again()}")
    try:
        yield
        boundary.leave("")
    except KeyboardInterrupt as error:
        if partial_path(output).exists() or kept_path(output).exists():
            if not getattr(error, "__notes__", []):
                error.add_note("interrupted; what is done is kept.")
            error.add_note(f"Continue with --resume: {_again()}")
        raise


def _again() -> str:
    """The command that goes on from what is kept."""
    words = [word for word in sys.argv[1:] if word not in ("--restart", "--resume")]
    return shlex.join(["ggufkit", *words, "--resume"])


def _say_cost(plan: "FitPlan") -> None:
    import quant
    from ggufkit.reports.plan_text import said, said_to_lack

    fit = plan.settings
    plan.measure()
    console.say(said(plan.said))
    if lacking := said_to_lack(plan.said):
        console.say(lacking)
    if fit.quantize.cluster:
        console.say("this is the time of this machine alone; the workers of --cluster take their part of it")
    if fit.quantize.encoder is quant.Encoder.GGML and plan.encoder.name is not quant.Encoder.GGML:
        console.say(
            "--encoder ggml: error feedback is ggufkit's own, and the file says so; ggml goes with --effort fast"
        )


def _save(path: Path, toml: str) -> None:
    from ggufkit.formats.atomic import write_atomic

    write_atomic(path, [toml.encode()])
