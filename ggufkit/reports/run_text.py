"""One answer of `ggufkit run`: what is told of it."""

import dataclasses
from dataclasses import dataclass

from ggufkit.runtime.generate import FinishReason, GenerationStats


@dataclass(frozen=True, slots=True)
class RunResult:
    """What was asked, what was answered, and what it took; see `GenerationStats`.

    mode  chat: under the model's template; raw: the prompt was continued
    """

    mode: str
    prompt: str
    text: str
    finish_reason: FinishReason
    stop_text: str | None
    context_full: bool
    loop: int
    seed: int
    n_prompt: int
    n_kept: int
    n_computed: int
    n_generated: int
    seconds_to_first: float
    seconds: float
    peak_rss: int
    prompt_per_second: float
    generated_per_second: float

    @classmethod
    def of(cls, mode: str, prompt: str, text: str, stats: GenerationStats) -> "RunResult":
        """What is told of an answer."""
        return cls(
            mode, prompt, text, **dataclasses.asdict(stats),
            prompt_per_second=stats.prompt_per_second, generated_per_second=stats.generated_per_second,
        )  # fmt: skip


def render(result: RunResult) -> str:
    """The answer."""
    return result.text
