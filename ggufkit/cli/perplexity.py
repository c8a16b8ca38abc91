"""`ggufkit perplexity`."""

from pathlib import Path
from typing import Any

import click

from ggufkit.cli import console, options

EXAMPLES = """
\b
Examples:
  ggufkit perplexity mixtral-Q4_K_M.gguf
  ggufkit perplexity mixtral-Q4_K_M.gguf --text wiki.test.raw --chunks 100 --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("file", type=options.PATH)
@options.text_file
@options.ctx_size
@options.chunks
@options.threads
@options.device
@options.json_flag
def command(*, file: Path, as_json: bool, device: str, **settings: Any) -> None:
    """Measure how well FILE predicts a text: perplexity as llama-perplexity defines it, and its error."""
    from ggufkit.formats.printable import cleaned
    from ggufkit.reports.result import as_dict
    from ggufkit.runtime.engine import Device
    from ggufkit.workflows.perplexity import PerplexitySettings, perplexity

    with console.progress(f"perplexity {file.name}") as update:
        report = perplexity(PerplexitySettings(file=file, device=Device(device), **settings), update, console.say)
    if as_json:
        console.print_json(as_dict(report))
        return
    report = cleaned(report)
    chunks = "chunk" if report.n_chunk == 1 else "chunks"
    error = "" if report.ppl_error_chunk is None else f" ± {report.ppl_error_chunk:.4f}"
    console.out().print(
        f"perplexity {report.ppl:.4f}{error}  ({report.file} on {report.text}: "
        f"{report.n_chunk} {chunks} of {report.n_ctx}, {report.n_token} tokens scored, "
        f"{report.tokens_per_second:.0f} tokens/s)"
    )
