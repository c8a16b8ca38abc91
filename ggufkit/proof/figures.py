"""Figures of a comparison from its per-token numbers: each with an interval clustered by chunk, and llama.cpp's ±.

Knows which figures there are and their names. Does not know where the numbers come from, nor any limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggufkit.proof.scores import ChunkScores
from quant import stats

F64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

KLD_LEVELS = {"kld_median": 0.5, "kld_p90": 0.9, "kld_p95": 0.95, "kld_p99": 0.99, "kld_p999": 0.999}


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Per-token numbers of all chunks, (n_chunk, n_scored) each, in the text's order; nats."""

    chunk: NDArray[np.int64]
    nll_base: F64Array
    nll_cand: F64Array
    kld: F64Array
    kld_low: F64Array
    same_top: BoolArray
    dp: F64Array

    @classmethod
    def of(cls, scored: Sequence[ChunkScores]) -> "TokenScores":
        ordered = sorted(scored, key=lambda one: one.chunk)
        numbers = np.array([one.chunk for one in ordered], dtype=np.int64)
        fields = zip(*(one.tokens for one in ordered), strict=True)
        nll_base, nll_cand, kld, kld_low, same_top, dp = (np.stack(field) for field in fields)
        return cls(numbers, nll_base, nll_cand, kld, kld_low, same_top, dp)


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One figure. None: not known, of one chunk or of extremes.

    low, high  95 % interval, chunks taken as independent
    naive_se   standard error with tokens taken as independent, as llama-perplexity prints it; None where it prints none
    """

    value: float
    se: float | None
    low: float | None
    high: float | None
    naive_se: float | None = None


def figures(scores: TokenScores) -> dict[str, FigureRow]:
    """All figures by name.

    ppl_base, ppl  perplexities            ln_ppl_ratio  ln(ppl / ppl_base)
    kld_mean, …    KL(base || candidate)   same_top      share of equal likeliest tokens
    dp_mean        p_cand - p_base of the text's tokens; dp_rms its root mean square
    """
    return {
        "ppl_base": _row(stats.perplexity(scores.nll_base), stats.naive_perplexity(scores.nll_base)),
        "ppl": _row(stats.perplexity(scores.nll_cand), stats.naive_perplexity(scores.nll_cand)),
        "ln_ppl_ratio": _row(
            stats.mean(scores.nll_cand - scores.nll_base), stats.naive_ln_ppl_ratio(scores.nll_base, scores.nll_cand)
        ),
        "kld_mean": _row(stats.mean(scores.kld), stats.naive_mean(scores.kld)),
        **{name: _row(stats.quantile(scores.kld, level)) for name, level in KLD_LEVELS.items()},
        "kld_max": _row(stats.quantile(scores.kld, 1.0)),
        "same_top": _row(stats.proportion(scores.same_top), stats.naive_proportion(scores.same_top)),
        "dp_mean": _row(stats.mean(scores.dp), stats.naive_mean(scores.dp)),
        "dp_rms": _row(stats.rms(scores.dp), stats.naive_rms(scores.dp)),
    }


def _row(figure: stats.Figure, naive: stats.Naive | None = None) -> FigureRow:
    se, low, high = (stats.known(x) for x in (figure.se, figure.low, figure.high))
    return FigureRow(figure.value, se, low, high, None if naive is None else stats.known(naive.se))
