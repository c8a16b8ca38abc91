"""`ggufkit calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ggufkit.cli import console, options

if TYPE_CHECKING:
    from ggufkit.workflows.calibrate import CalibrateSettings

EXAMPLES = """
\b
Examples:
  ggufkit calibrate mixtral-Q8_0.gguf -o mixtral.imatrix.gguf
  ggufkit calibrate ./Mixtral-8x7B-v0.1 -o mixtral.imatrix.gguf
  ggufkit calibrate mixtral-Q8_0.gguf -o mixtral.imatrix.gguf --text book.txt --text code.txt --tokens 100000
  ggufkit calibrate mixtral-Q8_0.gguf -o more.gguf --add-to mixtral.imatrix.gguf --text another.txt
  ggufkit calibrate --merge a.gguf --merge b.gguf -o both.gguf
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=options.PATH, required=False)
@click.option("-o", "--output", type=options.OUTPUT, required=True, help="The importance file to write (GGUF).")
@click.option("--text", type=options.PATH, multiple=True, help="UTF-8 text, repeatable. Default: the shipped text.")
@click.option("--tokens", "n_tokens", type=click.IntRange(min=1), default=None, help="At most so many new tokens.")
@click.option("--add-to", type=options.PATH, multiple=True, help="Importance file to add to, repeatable.")
@click.option("--skip-tokens", type=click.IntRange(min=0), default=0, help="Leave out the text's beginning.")
@click.option("--merge", type=options.PATH, multiple=True, help="Add importance files up, with no model; repeatable.")
@click.option("--process-output", is_flag=True, help="Also look at output.weight.")
@click.option("--ctx", "n_ctx", type=click.IntRange(min=8), default=512, show_default=True, help="Tokens of a chunk.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@options.threads
@options.device
@options.json_flag
def command(
    *,
    model: Path | None,
    output: Path,
    text: tuple[Path, ...],
    n_tokens: int | None,
    add_to: tuple[Path, ...],
    skip_tokens: int,
    merge: tuple[Path, ...],
    process_output: bool,
    n_ctx: int,
    force: bool,
    threads: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure how strongly a text uses each input of each expert of MODEL, and write it for quantize --imatrix.

    MODEL is a GGUF, or a Hugging Face folder: that is run layer by layer, in its own types, however large it is.
    Ctrl-C keeps what was gathered.
    """
    from ggufkit.errors import UsageError

    if merge:
        if model is not None:
            raise UsageError("--merge adds files up without a model. Leave MODEL out, or use --add-to.")
        _merge(merge, output, force, as_json)
        return
    if model is None:
        raise UsageError("name the GGUF to calibrate on, or files to --merge")
    from ggufkit.runtime.loading import Device
    from ggufkit.workflows.calibrate import CalibrateSettings

    settings = CalibrateSettings(
        model=model, output=output, text=text, n_tokens=n_tokens, add_to=add_to, skip_tokens=skip_tokens, n_ctx=n_ctx,
        process_output=process_output, force=force, threads=threads, device=Device(device),
    )  # fmt: skip
    _calibrate(settings, as_json)


def _calibrate(wanted: "CalibrateSettings", as_json: bool) -> None:
    from ggufkit.reports.calibrate_text import CalibrateResult
    from ggufkit.runtime import footprint
    from ggufkit.workflows.calibrate import calibrate, check_settings

    check_settings(wanted)
    model = wanted.model
    if model.is_file():
        console.say_memory(lambda: footprint.calibrated(model, wanted.n_ctx))
    with console.progress(f"calibrate on {model.name}") as update:
        report = CalibrateResult.of(calibrate(wanted, update))
    console.show_result(report, as_json=as_json)
    if report.interrupted:
        raise KeyboardInterrupt


def _merge(files: tuple[Path, ...], output: Path, force: bool, as_json: bool) -> None:
    from ggufkit.formats.printable import cleaned
    from ggufkit.reports.calibrate_text import CoverageResult, MergeResult, render_coverage
    from ggufkit.reports.result import as_dict
    from ggufkit.workflows.calibrate import merge_files

    coverage = CoverageResult.of(merge_files(files, output, force=force))
    if as_json:
        console.print_json(as_dict(MergeResult(str(output), coverage)))
    else:
        console.out().print(f"{cleaned(output)}  sum of {len(files)} files\n{render_coverage(coverage)}")
