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
@options.grouped("reading", options.Reading)
@options.json_flag
def command(*, file: Path, reading: options.Reading, as_json: bool) -> None:
    """Measure how well FILE predicts a text: perplexity as llama-perplexity defines it, and its error."""
    from ggufkit.runtime import footprint
    from ggufkit.workflows.perplexity import PerplexitySettings, perplexity

    console.say_memory(lambda: footprint.read_alone(file, reading.n_ctx))
    settings = PerplexitySettings(file=file, **reading.settings)
    with console.progress(f"perplexity {file.name}") as update:
        report = perplexity(settings, update, console.say)
    console.show_result(report, as_json=as_json)
