"""`ggufkit perplexity`."""

from pathlib import Path

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
def command(
    *,
    file: Path,
    text: Path | None,
    n_ctx: int,
    chunks: int | None,
    threads: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure how well FILE predicts a text: perplexity as llama-perplexity defines it, and its error."""
    from ggufkit.runtime import footprint
    from ggufkit.runtime.loading import Device
    from ggufkit.workflows.perplexity import PerplexitySettings, perplexity

    console.say_memory(lambda: footprint.scored([file], n_ctx))
    settings = PerplexitySettings(
        file=file, text=text, n_ctx=n_ctx, chunks=chunks, threads=threads, device=Device(device)
    )
    with console.progress(f"perplexity {file.name}") as update:
        report = perplexity(settings, update, console.say)
    console.show_result(report, as_json=as_json)
