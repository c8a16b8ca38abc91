"""`compare`: two models on the same text, in step; perplexity, KL divergence and agreement with honest intervals.

Knows the order of the steps: open both, check that they speak the same tokens, walk the chunks, make figures.
Stores nothing of the logits. Does not print. Does not judge: that is `ggufkit.workflows.gate`.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.formats.baseline import is_baseline
from ggufkit.runtime import scoring
from ggufkit.runtime.engine import Device, Engine
from ggufkit.workflows.facts import ModelFacts, TextFacts, model_facts, named_text
from ggufkit.workflows.figures import FigureRow, TokenScores, figures
from ggufkit.workflows.reference import LiveReference, Reference, open_baseline, text_digest
from ggufkit.workflows.routers import LayerAgreement, RouterWatch
from ggufkit.workflows.scores import Alternative, Spot, Spots, iter_scores

I32Array = NDArray[np.int32]
Update = Callable[[float, float, str], None]

N_SHOWN_BEFORE = 48  # tokens of context of a worst passage


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


@dataclass(frozen=True, slots=True)
class Passage:
    """A position where the candidate strayed, readable.

    before     text that both models had read, its end
    target     the token that follows
    base, candidate  what each thought would follow: (text, probability), likeliest first
    """

    kld: float
    chunk: int
    position: int
    before: str
    target: str
    base: tuple[tuple[str, float], ...]
    candidate: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """Means of one chunk, and its largest divergence."""

    chunk: int
    nll_base: float
    nll: float
    kld: float
    kld_max: float
    same_top: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was measured; `figures` by name, see `ggufkit.workflows.figures`."""

    base: ModelFacts
    candidate: ModelFacts
    text: TextFacts
    figures: dict[str, FigureRow]
    chunks: tuple[ChunkRow, ...]
    passages: tuple[Passage, ...]
    routers: tuple[LayerAgreement, ...]
    seconds: float
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Both sides, open, and the watch over their routers."""

    reference: Reference
    candidate: Engine
    watch: RouterWatch
    base: Engine | None = None

    def notices(self, content: str) -> tuple[str, ...]:
        """Lines a person should see."""
        lines = [*(self.base.notices if self.base else ()), *self.candidate.notices]
        sample = content[:20_000]
        if self.base and not np.array_equal(self.base.tokenize(sample), self.candidate.tokenize(sample)):
            lines.append(
                f"{self.candidate.path.name} cuts the text into other tokens than {self.base.path.name}; both were "
                "given the latter's. `ggufkit diff` says what differs."
            )
        return tuple(dict.fromkeys(lines))


def open_pair(settings: CompareSettings, stack: ExitStack) -> Pair:
    """Open both sides; the base may be a model or a baseline file."""
    if is_baseline(settings.base):
        candidate = stack.enter_context(open_engine(settings.candidate, settings))
        return Pair(open_baseline(settings.base), candidate, RouterWatch.off())
    watch = RouterWatch.of(settings.base, settings.candidate) if settings.routers else RouterWatch.off()
    base = stack.enter_context(open_engine(settings.base, settings, watch.base_callback))
    candidate = stack.enter_context(open_engine(settings.candidate, settings, watch.candidate_callback))
    return Pair(LiveReference(base), candidate, watch, base)


def compare(settings: CompareSettings, on_progress: Update = lambda *_: None) -> Comparison:
    """Measure it. Raises GgufError, InputError (other vocabulary, text too short, NaN logits), EngineError."""
    started = time.perf_counter()
    name, content = named_text(settings.text)
    facts = model_facts(settings.candidate)
    with ExitStack() as stack:
        pair = open_pair(settings, stack)
        chunks = pair.reference.chunks(pair.candidate, content, settings.n_ctx, settings.chunks)
        order = np.arange(len(chunks), dtype=np.int32)
        spots, scored = Spots(), []
        for one in iter_scores(pair.reference.start(chunks), pair.candidate, chunks, order, spots):
            scored.append(one)
            pair.watch.settle()
            on_progress(len(scored), len(chunks), "chunks")
        passages = tuple(readable(spot, chunks[spot.chunk], pair.candidate) for spot in spots.worst())
        notices = pair.notices(content)
    scores = TokenScores.of(scored)
    return Comparison(
        base=pair.reference.facts,
        candidate=facts,
        text=text_facts(name, content, chunks),
        figures=figures(scores),
        chunks=chunk_rows(scores),
        passages=passages,
        routers=pair.watch.result(),
        seconds=time.perf_counter() - started,
        notices=notices,
    )


def open_engine(path: Path, settings: CompareSettings, eval_callback: object = None) -> Engine:
    return scoring.open_for_scoring(
        path, n_ctx=settings.n_ctx, threads=settings.threads, device=settings.device, eval_callback=eval_callback
    )


def text_facts(name: str, content: str, chunks: I32Array) -> TextFacts:
    n_chunk, n_ctx = chunks.shape
    return TextFacts(name, text_digest(content), n_ctx, n_chunk, n_chunk * (n_ctx - 1 - n_ctx // 2))


def chunk_rows(scores: TokenScores) -> tuple[ChunkRow, ...]:
    columns = (
        scores.chunk, scores.nll_base.mean(axis=1), scores.nll_cand.mean(axis=1),
        scores.kld.mean(axis=1), scores.kld.max(axis=1), scores.same_top.mean(axis=1),
    )  # fmt: skip
    return tuple(ChunkRow(int(chunk), *map(float, rest)) for chunk, *rest in zip(*columns, strict=True))


def readable(spot: Spot, chunk: I32Array, engine: Engine) -> Passage:
    """`spot` in words; `chunk` (n_ctx,) are the tokens it lies in."""
    vocab = engine.vocab
    before = chunk[max(0, spot.position + 1 - N_SHOWN_BEFORE) : spot.position + 1]

    def words(alternatives: tuple[Alternative, ...]) -> tuple[tuple[str, float], ...]:
        return tuple((_word(engine, one.token), one.p) for one in alternatives)

    return Passage(
        kld=spot.kld,
        chunk=spot.chunk,
        position=spot.position,
        before=vocab.detokenize(before),
        target=_word(engine, spot.target),
        base=words(spot.base),
        candidate=words(spot.candidate),
    )


def _word(engine: Engine, token: int) -> str:
    return engine.vocab.piece(token, special=True).decode("utf-8", errors="replace")
