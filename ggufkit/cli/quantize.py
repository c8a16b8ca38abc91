"""`ggufkit quantize`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from ggufkit.cli import console, fitting, options

if TYPE_CHECKING:
    from ggufkit.encoding.job import Job
    from ggufkit.encoding.settings import QuantizeSettings
    from ggufkit.formats.model import Model
    from ggufkit.workflows.check import BeforeAfter
    from ggufkit.workflows.fit_settings import FitSettings
    from ggufkit.workflows.plan import FitCost
    from ggufkit.workflows.quantize import QuantizeReport

EXAMPLES = """
\b
Examples:
  ggufkit quantize ./Mixtral-8x7B-v0.1 -o mixtral-Q4_K_M.gguf
  ggufkit quantize ./Mixtral-8x7B-v0.1 -o mixtral-Q3_K_M.gguf --type Q3_K_M --imatrix mixtral.imatrix.gguf
  ggufkit quantize ./Mixtral-8x7B-v0.1 -o mixtral-Q4_K_M.gguf --calibrate
  ggufkit quantize ./Mixtral-8x7B-v0.1 -o mixtral-20g.gguf --target-size 20GiB --effort best
  ggufkit quantize ./Mixtral-8x7B-v0.1 -o mixtral-20g.gguf --target-size 20GiB --cluster tcp://node0:8786
  ggufkit quantize ./phi-2 -o phi-2-bf16.gguf --type bf16
  ggufkit quantize ./phi-2 -o phi-2.gguf --recipe mine.toml --check
"""


@click.command(epilog=EXAMPLES)
@click.argument("source", type=options.PATH)
@click.option("-o", "--output", type=options.OUTPUT, required=True, help="The GGUF to write.")
@options.type_name
@options.recipe
@options.imatrix
@options.grouped("fit", fitting.FitOptions)
@click.option("--encoder", type=click.Choice(["ggufkit", "ggml"]), default="ggufkit", show_default=True,
              help="Who searches for scales; ggml gives llama.cpp's exact bytes.")  # fmt: skip
@options.threads
@options.cluster
@options.workers
@options.max_memory
@click.option("--resume", is_flag=True, help="Continue an unfinished run (starts from the beginning if there is none).")
@click.option("--restart", is_flag=True, help="Drop an unfinished run and start again.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option(
    "--check",
    is_flag=True,
    help="Measure perplexity before and after. The source is converted to a temporary file beside the output.",
)
@options.text_file
@click.option("--provenance/--no-provenance", default=True, help="Record source, recipe and versions in the metadata.")
@click.option("--allow-nonfinite", is_flag=True, help="Encode weights that are NaN or infinite.")
@options.allow_requantize
@options.mtp
@options.lora
@options.json_flag
def command(
    *,
    source: Path,
    output: Path,
    type_name: str | None,
    recipe: Path | None,
    imatrix: Path | None,
    fit: fitting.FitOptions,
    encoder: str,
    threads: int | None,
    cluster: str | None,
    workers: int | None,
    max_memory: int | None,
    resume: bool,
    restart: bool,
    force: bool,
    dry_run: bool,
    check: bool,
    text: Path | None,
    provenance: bool,
    allow_nonfinite: bool,
    allow_requantize: bool,
    mtp: bool,
    lora: tuple[tuple[Path, float], ...],
    as_json: bool,
) -> None:
    """Make a quantized GGUF from SOURCE, a Hugging Face folder or an F32, F16, BF16 or Q8_0 GGUF.

    One pass: weights go from safetensors to the finished file, with no 16-bit file in between.
    """
    import quant
    from ggufkit.encoding.settings import QuantizeSettings
    from ggufkit.errors import UsageError

    if text and not check:
        raise UsageError("--text is what --check measures on. Add --check, or leave --text out.")
    type_given = bool(type_name or recipe)
    settings = QuantizeSettings(
        source=source, output=output, recipe=options.chosen_recipe(type_name, recipe), imatrix=imatrix,
        encoder=quant.Encoder(encoder), threads=threads or 0, max_memory=max_memory, resume=resume,
        restart=restart and not dry_run, force=force, provenance=provenance, allow_nonfinite=allow_nonfinite,
        allow_requantize=allow_requantize, mtp=mtp, lora=lora, cluster=cluster, workers=workers or 0,
    )  # fmt: skip
    fit_settings = fitting.settings_of(settings, fit, type_given=type_given) if fit.is_asked else None
    with settings.open() as model:
        work = _fitted(fit_settings, model, fit.save_recipe) if fit_settings else _plain(settings, model)
        if dry_run:
            _show_plan(work.planned(), as_json, work.cost)
            return
        if check:
            _require_check(work.job, text)
        report, more_notes = work.run()
        del work  # what calibration holds is let go before the check
        measured = _before_and_after(settings, model, text) if check else None
    _show(report, more_notes, measured, as_json)


class _Work(NamedTuple):
    """What the options ask for, with or without calibration.

    job      with the types that the options name
    planned  the job that --dry-run shows
    run      does it: the report, and what more is to be said
    cost     of calibration, where it is asked for
    """

    job: "Job"
    planned: "Callable[[], Job]"
    run: "Callable[[], tuple[QuantizeReport, tuple[str, ...]]]"
    cost: "FitCost | None" = None


def _plain(settings: "QuantizeSettings", model: "Model") -> _Work:
    from ggufkit.encoding.encoder import plain_encoder
    from ggufkit.encoding.job import prepare
    from ggufkit.workflows.quantize import encode

    encoder = plain_encoder(settings, model)
    job = prepare(settings, model, encoder)

    def run() -> "tuple[QuantizeReport, tuple[str, ...]]":
        with console.progress(f"quantize {settings.output.name}") as update, fitting.resumable(settings.output):
            return encode(job, encoder, update), ()

    return _Work(job, lambda: job, run)


def _fitted(settings: "FitSettings", model: "Model", save_recipe: Path | None) -> _Work:
    plan = fitting.prepared(settings, model)

    def run() -> "tuple[QuantizeReport, tuple[str, ...]]":
        from ggufkit.reports.quantize_text import fit_notes

        report = fitting.run(plan, save_recipe)
        return report.quantized, fit_notes(report)

    return _Work(plan.plain, plan.planned, run, plan.said)


def _require_check(job: "Job", text: Path | None) -> None:
    from ggufkit.workflows.check import require

    require(job, text)


def _before_and_after(settings: "QuantizeSettings", model: "Model", text: Path | None) -> "BeforeAfter":
    from ggufkit.workflows.check import check

    with console.progress("perplexity before and after") as update:
        try:
            return check(settings, model, text, update)
        except BaseException as error:
            interrupted = "interrupted; " if isinstance(error, KeyboardInterrupt) else ""
            error.add_note(f"{interrupted}{settings.output} is complete, only the check is missing.")
            raise


def _show(report: "QuantizeReport", more_notes: tuple[str, ...], measured: "BeforeAfter | None", as_json: bool) -> None:
    from ggufkit.reports.quantize_text import QuantizeResult

    result = QuantizeResult.of(report).with_more(notes=more_notes, check=measured)
    console.show_result(result, as_json=as_json)


def _show_plan(job: "Job", as_json: bool, cost: "FitCost | None" = None) -> None:
    from ggufkit.encoding.job import check_place
    from ggufkit.workflows.plan import plan_report

    check_place(job)
    report = plan_report(job, fitting=cost)
    console.show_result(report, as_json=as_json)
