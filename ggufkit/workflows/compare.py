"""`compare`: two models on the same text, in step; perplexity, KL divergence and agreement with honest intervals.

Knows the order of the steps: open both, check that they speak the same tokens, walk the chunks, make figures.
Stores nothing of the logits. Does not print. Does not judge: that is `ggufkit.workflows.gate`.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.formats.baseline import is_baseline
from ggufkit.progress import OnProgress, Progress, ignore
from ggufkit.proof.comparison import Comparison, chunk_rows, readable
from ggufkit.proof.facts import TextFacts, model_facts, named_text
from ggufkit.proof.figures import FigureRow, TokenScores, figures
from ggufkit.proof.original import LiveReference, Reference, open_baseline, text_digest
from ggufkit.proof.routers import RouterWatch
from ggufkit.proof.scores import ChunkScores, Spots, iter_scores
from ggufkit.runtime import scoring
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.loading import Device

I32Array = NDArray[np.int32]

_BLANK = 1e-5  # nats; a spread below this over a whole text is not a prediction
_SAMPLE_CHARS = 20_000  # of text, to see whether both tokenizers cut alike


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSettings:
    """What to compare on what.

    base     a GGUF, or a baseline file made from it
    text     a UTF-8 file; None takes the shipped prose
    n_ctx    tokens of a chunk; the second half is scored
    chunks   at most so many; None takes the whole text
    routers  whether to compare the experts that both choose, where the models have experts
    """

    base: Path
    candidate: Path
    text: Path | None = None
    n_ctx: int = scoring.N_CTX
    chunks: int | None = None
    threads: int | None = None
    device: Device = Device.AUTO
    routers: bool = True


def compare(settings: CompareSettings, on_progress: OnProgress = ignore) -> Comparison:
    """Measure it. Raises GgufError, InputError (other vocabulary, text too short, NaN logits), EngineError."""
    with ExitStack() as stack:
        walk = Walk(settings, stack)
        scored = []
        for one in walk.scores(np.arange(walk.n_chunk)):
            scored.append(one)
            on_progress(Progress(len(scored), walk.n_chunk, "chunks"))
        return walk.comparison(scored)


class Walk:
    """Both models, open, and the text they are to read. Closed by `stack`."""

    def __init__(self, settings: CompareSettings, stack: ExitStack) -> None:
        self._started = time.perf_counter()
        self._name, self._content = named_text(settings.text)
        self._watch, self._base = RouterWatch.off(), None
        self._reference: Reference
        if is_baseline(settings.base):
            self._reference = open_baseline(settings.base)
        else:
            if settings.routers:
                self._watch = RouterWatch.of(settings.base, settings.candidate)
            self._base = stack.enter_context(_open(settings.base, settings, self._watch.base_callback))
            self._reference = LiveReference(self._base)
        self._candidate = stack.enter_context(_open(settings.candidate, settings, self._watch.candidate_callback))
        self._chunks = self._reference.chunks(self._candidate, self._content, settings.n_ctx, settings.chunks)
        self._spots = Spots()

    @property
    def n_chunk(self) -> int:
        """Chunks that can be read."""
        return len(self._chunks)

    def scores(self, order: NDArray[np.integer[Any]]) -> Iterator[ChunkScores]:
        """Read the chunks of those numbers, in that order."""
        chunks, numbers = self._chunks[order], order.astype(np.int32)
        for one in iter_scores(self._reference.start(chunks), self._candidate, chunks, numbers, self._spots):
            self._watch.settle()
            yield one

    def comparison(self, scored: list[ChunkScores]) -> Comparison:
        """What was measured. To be called while both sides are open."""
        scores = TokenScores.of(scored)
        n_chunk, n_scored = scores.kld.shape
        found = figures(scores)
        n_ctx, digest = self._chunks.shape[1], text_digest(self._content)
        return Comparison(
            base=self._reference.facts,
            candidate=model_facts(self._candidate.path),
            text=TextFacts(self._name, digest, n_ctx, n_chunk, n_chunk * n_scored),
            figures=found,
            chunks=chunk_rows(scores),
            passages=tuple(
                readable(spot, self._chunks[spot.chunk], self._candidate.vocab) for spot in self._spots.worst()
            ),
            routers=self._watch.result(),
            seconds=time.perf_counter() - self._started,
            notices=tuple(dict.fromkeys([*self._notices(), *self._blank(scores), *_too_few(found, n_chunk)])),
        )

    def _blank(self, scores: TokenScores) -> Iterator[str]:
        """Models that say nothing: with weights that are not finite llama.cpp may give logits that are all equal."""
        sides = (self._reference.facts.file, scores.nll_base), (self._candidate.path.name, scores.nll_cand)
        for name, nll in sides:
            if np.ptp(nll) < _BLANK:
                yield f"{name} holds every token equally likely everywhere: it is damaged. `ggufkit diff` says where."

    def _notices(self) -> Iterator[str]:
        """Lines a person should see."""
        yield from self._base.notices if self._base else ()
        yield from self._candidate.notices
        sample = self._content[:_SAMPLE_CHARS]
        if self._base and not np.array_equal(self._base.tokenize(sample), self._candidate.tokenize(sample)):
            yield (
                f"{self._candidate.path.name} cuts the text into other tokens than {self._base.path.name}; both were "
                "given the latter's. `ggufkit diff` says what differs."
            )


def _too_few(found: dict[str, FigureRow], n_chunk: int) -> Iterator[str]:
    """Figures whose interval is unbounded, in words."""
    unbounded = [name for name, row in found.items() if name != "kld_max" and (row.low is None or row.high is None)]
    if unbounded:
        chunks = "one chunk is" if n_chunk == 1 else f"{n_chunk} chunks are"
        yield (
            f"{chunks} too few to say how sure {'any figure' if n_chunk == 1 else ', '.join(unbounded)} is. "
            "Read more with --chunks, a longer --text or a shorter --ctx."
        )


def _open(path: Path, settings: CompareSettings, eval_callback: Any) -> Engine:
    return scoring.open_for_scoring(
        path, n_ctx=settings.n_ctx, threads=settings.threads, device=settings.device, eval_callback=eval_callback
    )
