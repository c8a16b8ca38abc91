"""Two models on one text, chunk by chunk: per-token numbers as they come, nothing kept of the logits.

    chunks of tokens ──► base (engine or baseline file) ─┐
                    └──► candidate (engine) ─────────────┴─► ChunkScores, one a chunk

Knows how the two are walked in step, and which positions to remember as the worst. Does not know figures, limits or
reports. Both models read the base's tokens, so that a difference of tokenizers cannot pass for one of weights.
"""

import heapq
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ggufkit.formats.tensor import F32Array
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.scoring import LogitsBlock, damage_named, iter_logits
from quant import logits

I32Array = NDArray[np.int32]

N_SPOTS = 12
N_ALTERNATIVES = 5


class Alternative(NamedTuple):
    """A token that a model thought of, and its probability."""

    token: int
    p: float


class Spot(NamedTuple):
    """A position where the candidate strayed: what both thought would follow.

    chunk     number in the text
    position  in the chunk, of the last token read
    target    the token that follows in the text
    """

    kld: float
    chunk: int
    position: int
    target: int
    base: tuple[Alternative, ...]
    candidate: tuple[Alternative, ...]


class ChunkScores(NamedTuple):
    """Per-token numbers of one chunk, number `chunk` in the text.

    tokens  each field (n_scored,); `kld_low` is `kld` itself, less where the base is a baseline file
    """

    chunk: int
    tokens: logits.SketchComparison


class Scored(NamedTuple):
    """Per-token numbers of a block, and what the base thought at a row of it."""

    numbers: logits.SketchComparison
    base_top: logits.TopK


class Base(Protocol):
    """Where the base's side comes from. Blocks are asked for in the candidate's order, `chunk` counted in the text."""

    def score(self, block: LogitsBlock, chunk: int) -> Scored: ...


class LiveBase:
    """The base model itself, evaluated in step with the candidate."""

    def __init__(self, engine: Engine, chunks: I32Array) -> None:
        self._name = engine.path.name
        self._blocks = iter_logits(engine, chunks.reshape(-1), n_ctx=chunks.shape[1])

    def score(self, block: LogitsBlock, chunk: int) -> Scored:
        mine = next(self._blocks)
        got = logits.compare(mine.logits, block.logits, block.targets)
        numbers = logits.SketchComparison(got.nll_base, got.nll_cand, got.kld, got.kld, got.same_top, got.dp)
        worst = int(got.kld.argmax())
        return Scored(numbers, logits.top_k(mine.logits[worst : worst + 1], _n_alternatives(mine.logits)))


class Spots:
    """The worst positions so far, at most one a block, so that one bad passage does not fill the list."""

    def __init__(self, n_keep: int = N_SPOTS) -> None:
        self._heap: list[Spot] = []
        self._n_keep = n_keep

    def offer(self, block: LogitsBlock, chunk: int, scored: Scored) -> None:
        """Keep the worst row of the block if it is among the worst of all."""
        row = int(scored.numbers.kld.argmax())
        kld = float(scored.numbers.kld[row])
        if len(self._heap) == self._n_keep and kld <= self._heap[0].kld:
            return
        top = logits.top_k(block.logits[row : row + 1], _n_alternatives(block.logits))
        spot = Spot(
            kld, chunk, int(block.positions[row]), int(block.targets[row]),
            _alternatives(scored.base_top), _alternatives(top),
        )  # fmt: skip
        if len(self._heap) < self._n_keep:
            heapq.heappush(self._heap, spot)
        else:
            heapq.heappushpop(self._heap, spot)

    def worst(self) -> tuple[Spot, ...]:
        return tuple(sorted(self._heap, reverse=True))


def iter_scores(
    base: Base, candidate: Engine, chunks: I32Array, order: I32Array, spots: Spots
) -> Iterator[ChunkScores]:
    """Score `chunks` (n_chunk, n_ctx), the i-th of which is number order[i] in the text.

    Raises LogitsError where logits are not finite, naming model, chunk and position.
    """
    parts: list[logits.SketchComparison] = []
    last = -1
    for block in iter_logits(candidate, chunks.reshape(-1), n_ctx=chunks.shape[1]):
        if parts and block.chunk != last:
            yield _joined(int(order[last]), parts)
            parts = []
        last = block.chunk
        with damage_named(candidate.path, int(order[last])):
            scored = base.score(block, int(order[last]))
        spots.offer(block, int(order[last]), scored)
        parts.append(scored.numbers)
    if parts:
        yield _joined(int(order[last]), parts)


def _joined(chunk: int, parts: list[logits.SketchComparison]) -> ChunkScores:
    return ChunkScores(chunk, logits.SketchComparison(*(np.concatenate(field) for field in zip(*parts, strict=True))))


def _n_alternatives(rows: F32Array) -> int:
    return min(N_ALTERNATIVES, int(rows.shape[1]))


def _alternatives(top: logits.TopK) -> tuple[Alternative, ...]:
    pairs = zip(top.ids[0], np.exp(top.log_probs[0]), strict=True)
    return tuple(Alternative(int(token), float(p)) for token, p in list(pairs)[:N_ALTERNATIVES])
