"""`Comparison`: what was measured of two models on a text, and how it is put together from per-token numbers.

Knows what a result holds. Does not know how models are run.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggufkit.proof.facts import ModelFacts, TextFacts
from ggufkit.proof.figures import FigureRow, TokenScores
from ggufkit.proof.routers import LayerAgreement
from ggufkit.proof.scores import Alternative, Spot
from ggufkit.runtime.vocabulary import Vocabulary

I32Array = NDArray[np.int32]

_N_SHOWN_BEFORE = 48  # tokens of context of a worst passage


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
    """What was measured; `figures` by name, see `ggufkit.proof.figures`. Routers only where both have experts."""

    base: ModelFacts
    candidate: ModelFacts
    text: TextFacts
    figures: dict[str, FigureRow]
    chunks: tuple[ChunkRow, ...]
    passages: tuple[Passage, ...]
    routers: tuple[LayerAgreement, ...]
    seconds: float
    notices: tuple[str, ...]


def chunk_rows(scores: TokenScores) -> tuple[ChunkRow, ...]:
    """One row a chunk, in the text's order."""
    columns = (
        scores.chunk, scores.nll_base.mean(axis=1), scores.nll_cand.mean(axis=1),
        scores.kld.mean(axis=1), scores.kld.max(axis=1), scores.same_top.mean(axis=1),
    )  # fmt: skip
    return tuple(ChunkRow(int(chunk), *map(float, rest)) for chunk, *rest in zip(*columns, strict=True))


def readable(spot: Spot, chunk: I32Array, vocab: Vocabulary) -> Passage:
    """`spot` in words; `chunk` (n_ctx,) are the tokens it lies in."""

    def word(token: int) -> str:
        return vocab.piece(token, special=True).decode("utf-8", errors="replace")

    def words(alternatives: tuple[Alternative, ...]) -> tuple[tuple[str, float], ...]:
        return tuple((word(one.token), one.p) for one in alternatives)

    stop = spot.position + 1
    return Passage(
        kld=spot.kld,
        chunk=spot.chunk,
        position=spot.position,
        before=vocab.detokenize(chunk[max(0, stop - _N_SHOWN_BEFORE) : stop]),
        target=word(spot.target),
        base=words(spot.base),
        candidate=words(spot.candidate),
    )
