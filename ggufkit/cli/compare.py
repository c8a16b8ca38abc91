"""`ggufkit compare`."""

from pathlib import Path

import click

from ggufkit.cli import console, options

EXAMPLES = """
\b
Examples:
  ggufkit compare mixtral-bf16.gguf mixtral-Q4_K_M.gguf
  ggufkit compare mixtral.baseline mixtral-Q4_K_M.gguf --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("base", type=options.PATH)
@click.argument("candidate", type=options.PATH)
@options.grouped("reading", options.Reading)
@click.option("--routers/--no-routers", default=True, help="Compare which experts both choose.")
@options.json_flag
def command(*, base: Path, candidate: Path, reading: options.Reading, routers: bool, as_json: bool) -> None:
    """Measure how far CANDIDATE is from BASE: perplexity, KL divergence, same top token, each with an interval.

    BASE is the original as a GGUF, or a baseline file of it. Both run in step on the same text; nothing is stored.
    """
    from ggufkit.formats.baseline import is_baseline
    from ggufkit.runtime import footprint
    from ggufkit.workflows.compare import CompareSettings, compare

    models = [path for path in (base, candidate) if not is_baseline(path)]
    console.say_memory(lambda: footprint.scored(models, reading.n_ctx))
    settings = CompareSettings(base=base, candidate=candidate, routers=routers, **reading.settings)
    with console.progress(f"compare {candidate.name}") as update:
        result = compare(settings, update)
    console.show_result(result, as_json=as_json)
