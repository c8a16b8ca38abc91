"""`ggufkit quantize`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ggufkit.cli import console, fitting, options

if TYPE_CHECKING:
    from ggufkit.workflows.check import BeforeAfter
    from ggufkit.workflows.quantize import Job, QuantizeReport, QuantizeSettings

EXAMPLES = """
\b
Examples:
  ggufkit quantize ./Mixtral-8x7B-v0.1 -o mixtral-Q4_K_M.gguf
  ggufkit quantize ./Mixtral-8x7B-v0.1 -o mixtral-Q3_K_M.gguf --type Q3_K_M --imatrix mixtral.imatrix.gguf
  ggufkit quantize ./Mixtral-8x7B-v0.1 -o mixtral-Q4_K_M.gguf --calibrate
  ggufkit quantize ./Mixtral-8x7B-v0.1 -o mixtral-20g.gguf --target-size 20GiB --effort best
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
@options.max_memory
@click.option("--resume", is_flag=True, help="Continue an unfinished run (starts anew where there is none).")
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
    from ggufkit.workflows.quantize import QuantizeSettings

    type_given = bool(type_name or recipe)
    settings = QuantizeSettings(
        source=source, output=output, recipe=options.chosen_recipe(type_name, recipe), imatrix=imatrix,
        encoder=quant.Encoder(encoder), threads=threads or 0, max_memory=max_memory, resume=resume,
        restart=restart and not dry_run, force=force, provenance=provenance, allow_nonfinite=allow_nonfinite,
        allow_requantize=allow_requantize, mtp=mtp, lora=lora,
    )  # fmt: skip
    if dry_run:
        _dry_run(settings, fit, type_given, as_json)
        return
    _require_check(settings, text, wanted=check)
    fitted = None
    if fit.is_asked:
        with fitting.opened(settings, fit, type_given=type_given) as job:
            fitted = fitting.run(job, fit.save_recipe)
    report = fitted.quantized if fitted else _run(settings)
    from ggufkit.reports.quantize_text import QuantizeResult, fit_notes, render
    from ggufkit.reports.result import as_dict

    result = QuantizeResult.of(report).with_more(
        notes=fit_notes(fitted) if fitted else (), check=_before_and_after(settings, text) if check else None
    )
    if as_json:
        console.print_json(as_dict(result))
    else:
        console.show(lambda _: render(result))


def _run(settings: "QuantizeSettings") -> "QuantizeReport":
    from ggufkit.workflows.quantize import quantize

    with console.progress(f"quantize {settings.output.name}") as update, fitting.resumable(settings.output):
        return quantize(settings, update)


def _require_check(settings: "QuantizeSettings", text: Path | None, *, wanted: bool) -> None:
    from ggufkit.errors import UsageError
    from ggufkit.workflows.check import require

    if wanted:
        require(settings, text)
    elif text:
        raise UsageError("--text is what --check measures on. Add --check, or leave --text out.")


def _before_and_after(settings: "QuantizeSettings", text: Path | None) -> "BeforeAfter":
    from ggufkit.workflows.check import check

    with console.progress("perplexity before and after") as update:
        try:
            return check(settings, text, update)
        except BaseException as error:
            interrupted = "interrupted; " if isinstance(error, KeyboardInterrupt) else ""
            error.add_note(f"{interrupted}{settings.output} is complete, only the check is missing.")
            raise


def _dry_run(settings: "QuantizeSettings", fit: fitting.FitOptions, type_given: bool, as_json: bool) -> None:
    from ggufkit.workflows.quantize import opened

    if fit.is_asked:
        with fitting.opened(settings, fit, type_given=type_given) as fitted:
            _show_plan(fitted.planned(), as_json)
    else:
        with opened(settings) as job:
            _show_plan(job, as_json)


def _show_plan(job: "Job", as_json: bool) -> None:
    from ggufkit.encoding.job import check_place
    from ggufkit.reports.plan_text import render
    from ggufkit.reports.result import as_dict
    from ggufkit.workflows.plan import plan_report

    check_place(job)
    report = plan_report(job)
    if as_json:
        console.print_json(as_dict(report))
    else:
        console.show(lambda width: render(report, width))
