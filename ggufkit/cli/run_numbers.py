"""What `ggufkit run` says of the work: the bar of a prompt, the line of numbers, the JSON document."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from ggufkit.cli import console
from ggufkit.progress import OnProgress, Progress
from ggufkit.reports.columns import broken
from ggufkit.reports.units import human_bytes
from ggufkit.runtime.generate import FinishReason, GenerationStats


class PromptProgress:
    """A bar while a prompt of several steps is computed; gone before the answer begins."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._update: OnProgress | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._update is None and done:
            self._update = self._stack.enter_context(console.progress("computing the prompt"))
        if self._update is not None:
            self._update(Progress(done, total, "tokens"))

    def close(self) -> None:
        self._stack.close()
        self._update = None

    def __enter__(self) -> "PromptProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stats_lines(stats: GenerationStats, *, chat: bool, width: int | None = None) -> Iterator[str]:
    """One line of what an answer took, and one where it ended in a loop; several where `width` is too narrow."""
    n_there = stats.n_kept + stats.n_computed
    if n_there < stats.n_prompt:
        yield f"interrupted at {n_there:,} of {stats.n_prompt:,} tokens of the prompt"
        return
    why = {
        FinishReason.LENGTH: "the context is full" if stats.context_full else "the length",
        FinishReason.STOP: "the model ended" if stats.stop_text is None else f"stop {stats.stop_text!r}",
        FinishReason.CANCELLED: "interrupted",
    }[stats.finish_reason]
    prompt = f"{stats.n_computed:,} new + {stats.n_kept:,} kept" if stats.n_kept else f"{stats.n_prompt:,} tokens"
    numbers = (
        _mode(chat),
        f"first token {1000 * stats.seconds_to_first:.0f} ms",
        f"prompt {prompt} @ {stats.prompt_per_second:.1f}/s",
        f"answer {stats.n_generated:,} tokens @ {stats.generated_per_second:.1f}/s",
        f"peak {human_bytes(stats.peak_rss)}",
        f"seed {stats.seed}",
        why,
    )
    yield from broken(" · ".join(numbers), width, "·")
    if stats.loop:
        yield from broken(
            f"It ends in the same {stats.loop} tokens over and over. --repeat-penalty 1.1 discourages that, -n N "
            "goes on for N tokens.", width, " ",
        )  # fmt: skip


def _mode(chat: bool) -> str:
    return "chat" if chat else "raw"


def as_dict(prompt: str, text: str, chat: bool, stats: GenerationStats) -> dict[str, Any]:
    from ggufkit.reports.result import as_dict as plain
    from ggufkit.reports.run_text import RunResult

    return plain(RunResult.of(_mode(chat), prompt, text, stats))
