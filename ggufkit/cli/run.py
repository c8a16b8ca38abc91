"""`ggufkit run`: one answer with -p or from a pipe, a conversation on a terminal."""

import sys
from pathlib import Path

import click

from ggufkit.cli import console, options, piped
from ggufkit.cli.run_options import AnswerOptions, EngineOptions, SamplingOptions

EXAMPLES = """
\b
Examples:
  ggufkit run mistral-instruct-Q4_K_M.gguf -p "Why is the sky blue?"
  ggufkit run mistral-Q4_K_M.gguf --raw -p "The three laws of robotics are"
  git diff | ggufkit run mistral-instruct-Q4_K_M.gguf -p "Review this change:" --temp 0
  ggufkit run mistral-instruct-Q4_K_M.gguf              (a conversation; /bye or Ctrl-D ends it)
"""


@click.command(epilog=EXAMPLES)
@click.argument("file", type=options.PATH)
@options.grouped("asked", AnswerOptions)
@options.grouped("sampling", SamplingOptions)
@options.grouped("computing", EngineOptions)
@options.json_flag
def command(
    *, file: Path, asked: AnswerOptions, sampling: SamplingOptions, computing: EngineOptions, as_json: bool
) -> None:
    """Generate text with FILE. The answer goes to stdout as it comes, everything else to stderr."""
    from ggufkit.cli.run_session import Session, open_engine

    chain = sampling.checked  # before a model is loaded
    prompt = _whole_prompt(asked.prompt)
    with open_engine(file, computing) as engine:
        session = Session(engine, asked, chain, as_json=as_json)
        if prompt is not None:
            session.answer_once(prompt)
        else:
            console.say(f"{file.name}. /help shows what you can say; Ctrl-C stops an answer, /bye or Ctrl-D ends.")
            session.converse()


def _whole_prompt(said: str | None) -> str | None:
    """What was said with -p, what was piped in behind it; None on a terminal without -p: a conversation."""
    if said is None and sys.stdin.isatty():
        return None
    piped_in = piped.read(beside_a_prompt=said is not None)
    return "\n\n".join(part for part in (said, piped_in) if part)
