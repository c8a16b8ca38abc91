"""`ggufkit quantize`."""

import dataclasses
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ggufkit.cli import console, fitting, options

if TYPE_CHECKING:
    from ggufkit.workflows.check import Check

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
@fitting.fit_options
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
@options.json_flag
def command(*, as_json: bool, dry_run: bool, check: bool, text: Path | None, **options_: Any) -> None:
    """Make a quantized GGUF from SOURCE, a Hugging Face folder or an F32, F16, BF16 or Q8_0 GGUF.

    One pass: weights go from safetensors to the finished file, with no 16-bit file in between.
    """
    chosen = {name: options_.pop(name) for name in fitting.NAMES}
    type_given = bool(options_["type_name"] or options_["recipe"])
    settings = _settings(**options_)
    asked = fitting.is_asked(chosen)
    if dry_run:
        settings = dataclasses.replace(settings, restart=False)
        with fitting.opened(settings, chosen, type_given=type_given) if asked else _opened(settings) as job:
            _show_plan(job.planned() if asked else job, as_json, guessed=fitting.has_target(chosen))
        return
    _require_check(settings, text, wanted=check)
    fitted = None
    if asked:
        with fitting.opened(settings, chosen, type_given=type_given) as job:
            fitted = fitting.run(job, chosen["save_recipe"])
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


def _settings(*, type_name: str | None, recipe: Path | None, encoder: str, threads: int | None, **rest: Any) -> Any:
    import quant
    from ggufkit.workflows.quantize import QuantizeSettings

    chosen = options.chosen_recipe(type_name, recipe)
    return QuantizeSettings(recipe=chosen, encoder=quant.Encoder(encoder), threads=threads or 0, **rest)


def _run(settings: Any) -> Any:
    from ggufkit.workflows.quantize import quantize

    with console.progress(f"quantize {settings.output.name}") as update, fitting.resumable(settings.output):
        return quantize(settings, update)


def _require_check(settings: Any, text: Path | None, *, wanted: bool) -> None:
    from ggufkit.errors import UsageError
    from ggufkit.workflows.check import require

    if wanted:
        require(settings, text)
    elif text:
        raise UsageError("--text is what --check measures on. Add --check, or leave --text out.")


def _before_and_after(settings: Any, text: Path | None) -> "Check":
    from ggufkit.workflows.check import check

    with console.progress("perplexity before and after") as update:
        try:
            return check(settings, text, update)
        except BaseException as error:
            interrupted = "interrupted; " if isinstance(error, KeyboardInterrupt) else ""
            error.add_note(f"{interrupted}{settings.output} is complete, only the check is missing.")
            raise


def _opened(settings: Any) -> AbstractContextManager[Any]:
    from ggufkit.workflows.quantize import opened

    return opened(settings)


def _show_plan(job: Any, as_json: bool, *, guessed: bool) -> None:
    from ggufkit.encoding.job import check_place
    from ggufkit.reports.plan_text import render
    from ggufkit.reports.result import as_dict
    from ggufkit.workflows.plan import plan_report

    check_place(job)
    report = plan_report(job, guessed=guessed)
    if as_json:
        console.print_json(as_dict(report))
    else:
        console.show(lambda width: render(report, width))
