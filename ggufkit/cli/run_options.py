"""Options of `ggufkit run`: how to answer, how to draw tokens, how to compute."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ggufkit.cli import options

if TYPE_CHECKING:
    from ggufkit.runtime.sampling import Sampling


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How to answer. chat None: where the file has a template."""

    prompt: str | None = options.option(
        "-p", "--prompt", default=None, help="The question, or the text to continue. A pipe is put behind it."
    )
    chat: bool | None = options.option(
        "--chat/--raw", default=None,
        help="Answer under the model's chat template, or continue the text as it is.  "
        "[default: --chat where the model has a template]",
    )  # fmt: skip
    special: bool = options.option(
        "--special", is_flag=True, help="With --raw: read <|im_start|> and its like as tokens."
    )
    system: str | None = options.option("--system", default=None, help="System message of a chat.")
    max_tokens: int | None = options.option(
        "-n", "--max-tokens", type=click.IntRange(min=1), default=None,
        help="At most so many tokens.  [default: until the model ends; 512 with --raw]",
    )  # fmt: skip
    stop: tuple[str, ...] = options.option(
        "--stop", multiple=True, help="Text that ends the answer; may be given again."
    )


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How the next token is drawn."""

    seed: int | None = options.option(
        "--seed", type=click.IntRange(0, 2**32 - 2), default=None, help="Seed. Default: random, and shown."
    )
    temperature: float = options.option(
        "--temp", "temperature", type=float, default=0.8, show_default=True, help="0 takes the likeliest token."
    )
    top_k: int = options.option(
        "--top-k", type=int, default=40, show_default=True, help="Of the k likeliest tokens; 0: all."
    )
    top_p: float = options.option(
        "--top-p", type=float, default=0.95, show_default=True, help="Of the tokens that hold this much."
    )
    min_p: float = options.option(
        "--min-p", type=float, default=0.05, show_default=True, help="Of tokens at least so likely as the best."
    )
    repeat_penalty: float = options.option(
        "--repeat-penalty", type=float, default=1.0, show_default=True, help="Above 1 discourages repetition."
    )

    @property
    def checked(self) -> "Sampling":
        """The settings of the chain. Raises UsageError for one out of its range."""
        from ggufkit.runtime.sampling import Sampling

        return Sampling(
            seed=self.seed, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to compute."""

    n_ctx: int | None = options.option(
        "--ctx", "n_ctx", type=click.IntRange(min=8), default=None, help="Context size. Default: what fits."
    )
    threads: int | None = options.shared(options.threads)
    device: str = options.shared(options.device)
    lora: tuple[tuple[Path, float], ...] = options.option(
        "--lora", type=options.Adapter(), multiple=True, metavar="FILE[=FACTOR]",
        help="LoRA adapter as GGUF (see convert-lora) to add to the model, repeatable.",
    )  # fmt: skip
