"""`ggufkit run`: one answer with -p or from a pipe, a conversation on a terminal."""

import sys
from pathlib import Path
from typing import Any

import click

from ggufkit.cli import console, options, piped

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
@click.option("-p", "--prompt", default=None, help="The question, or the text to continue. A pipe is put behind it.")
@click.option("--chat/--raw", default=None, help="Answer under the model's chat template, or continue the text as it "
              "is.  [default: --chat where the model has a template]")  # fmt: skip
@click.option("--special", is_flag=True, help="With --raw: read <|im_start|> and its like as tokens.")
@click.option("--system", default=None, help="System message of a chat.")
@click.option("-n", "--max-tokens", type=click.IntRange(min=1), default=None,
              help="At most so many tokens.  [default: until the model ends; 512 with --raw]")  # fmt: skip
@click.option("--ctx", "n_ctx", type=click.IntRange(min=8), default=None, help="Context size. Default: what fits.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 2), default=None, help="Seed. Default: random, and shown.")
@click.option("--temp", "temperature", type=float, default=0.8, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-k", type=int, default=40, show_default=True, help="Of the k likeliest tokens; 0: all.")
@click.option("--top-p", type=float, default=0.95, show_default=True, help="Of the tokens that hold this much.")
@click.option("--min-p", type=float, default=0.05, show_default=True, help="Of tokens at least so likely as the best.")
@click.option("--repeat-penalty", type=float, default=1.0, show_default=True, help="Above 1 discourages repetition.")
@click.option("--stop", multiple=True, help="Text that ends the answer; may be given again.")
@options.threads
@options.device
@options.json_flag
def command(*, file: Path, as_json: bool, **rest: Any) -> None:
    """Generate text with FILE. The answer goes to stdout as it comes, everything else to stderr."""
    from ggufkit.cli.run_session import Session, open_engine, parse

    engine_options = {name: rest.pop(name) for name in ("n_ctx", "threads", "device")}
    answer, sampling = parse(rest)
    answer.prompt = _whole_prompt(answer.prompt)
    with open_engine(file, **engine_options) as engine:
        session = Session(engine, answer, sampling, as_json=as_json)
        if answer.prompt is not None:
            session.answer_once(answer.prompt)
        else:
            console.say(f"{file.name}. /help shows what you can say; Ctrl-C stops an answer, /bye or Ctrl-D ends.")
            session.converse()


def _whole_prompt(said: str | None) -> str | None:
    """What was said with -p, what was piped in behind it; None on a terminal without -p: a conversation."""
    if said is None and sys.stdin.isatty():
        return None
    piped_in = piped.read(beside_a_prompt=said is not None)
    return "\n\n".join(part for part in (said, piped_in) if part)
