"""Numbers a token to figures with intervals, tokens clustered by the chunk of text they came from.

Tokens of one chunk share a context, so they are not independent evidence: the spread of the chunk means is what tells
how sure a figure is. `naive_*` take every token as independent, as llama-perplexity prints it, for comparison.
Values are (n_chunk, n_per_chunk) float64 throughout. Knows no model, text or limit; looks at the data while they
come in are in `quant.confseq`.
"""

from functools import cache
from math import atan, cos, exp, isfinite, pi, sin, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.errors import ShapeError

F64Array = NDArray[np.float64]

CONFIDENCE = 0.95
_LARGEST_DF = 1000  # beyond it Student's t differs from this one in the fourth digit


class Figure(NamedTuple):
    """A figure and its interval. `se` is its standard error; NaN with `low`, `high` infinite where one chunk is all."""

    value: float
    se: float
    low: float
    high: float


class Naive(NamedTuple):
    """A figure and its standard error were tokens independent, comparable with llama-perplexity's ± ."""

    value: float
    se: float


def known(value: float) -> float | None:
    """`value` for the record; None where it is not a number or has no bound."""
    return value if isfinite(value) else None


def mean(values: F64Array, *, confidence: float = CONFIDENCE) -> Figure:
    """Mean of all values; interval from the chunk means by Student's t with n_chunk - 1 degrees of freedom."""
    chunk_means = _chunked(values).mean(axis=1)  # (n_chunk,)
    value = float(chunk_means.mean())
    if len(chunk_means) < 2:
        return Figure(value, float("nan"), float("-inf"), float("inf"))
    se = float(chunk_means.std(ddof=1)) / sqrt(len(chunk_means))
    reach = t_quantile(confidence, len(chunk_means) - 1) * se
    return Figure(value, se, value - reach, value + reach)


def perplexity(nll: F64Array, *, confidence: float = CONFIDENCE) -> Figure:
    """exp of the mean of `nll` (nats); the standard error by the delta method, the interval is that of the mean."""
    m = mean(nll, confidence=confidence)
    return Figure(exp(m.value), exp(m.value) * m.se, exp(m.low), _exp_or_inf(m.high))


def rms(values: F64Array, *, confidence: float = CONFIDENCE) -> Figure:
    """Root of the mean square; the interval is that of the mean square."""
    m = mean(np.square(values), confidence=confidence)
    value = sqrt(m.value)
    return Figure(value, m.se / (2 * value) if value else 0.0, sqrt(max(0.0, m.low)), sqrt(m.high))


def proportion(hits: NDArray[np.bool_], *, confidence: float = CONFIDENCE) -> Figure:
    """Share of true values; Wilson's interval for as many tokens as the spread of the chunks makes them worth.

    Where tokens of a chunk tend to agree, n of them are worth n / deff, deff the ratio of the clustered variance to
    the binomial one, never taken below 1. Source: Korn and Graubard 1998, with Wilson's interval.
    """
    m = mean(hits.astype(np.float64), confidence=confidence)
    n, n_chunk = hits.size, hits.shape[0]
    if n_chunk < 2:
        return Figure(m.value, m.se, 0.0, 1.0)
    binomial = m.value * (1 - m.value) / n
    worth = n * min(1.0, binomial / m.se**2) if m.se > 0 else n
    low, high = _wilson(m.value, worth, t_quantile(confidence, n_chunk - 1))
    return Figure(m.value, m.se, low, high)


def quantile(values: F64Array, level: float, *, confidence: float = CONFIDENCE) -> Figure:
    """The value below which `level` of all lie, linear between neighbours; interval by Woodruff.

    That is: the clustered interval of the share below, turned back into values. Where it reaches past the smallest
    or largest value nothing is known on that side, and the end is infinite. `se` is a quarter of the interval's width.
    """
    flat = np.sort(_chunked(values), axis=None)
    value = float(np.quantile(flat, level))
    share = mean((values <= value).astype(np.float64), confidence=confidence)
    reach = share.high - share.value
    low = float(np.quantile(flat, level - reach)) if level - reach > 0 else float("-inf")
    high = float(np.quantile(flat, level + reach)) if level + reach < 1 else float("inf")
    return Figure(value, (high - low) / 4, low, high)


def wilson(n_true: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a share from independent trials. Source: Wilson 1927."""
    if not 0 <= n_true <= n or n < 1:
        raise ShapeError(f"a share needs 0 <= n_true <= n and n > 0, got {n_true} of {n}")
    return _wilson(n_true / n, n, _normal_quantile(confidence))


def naive_mean(values: F64Array) -> Naive:
    """Mean and standard error of independent values. Source: perplexity.cpp mean_and_uncertainty."""
    value = float(values.mean())
    if values.size < 2:
        return Naive(value, 0.0)
    variance = max(0.0, float(np.square(values).mean()) - value * value)
    return Naive(value, sqrt(variance / (values.size - 1)))


def naive_perplexity(nll: F64Array) -> Naive:
    m = naive_mean(nll)
    return Naive(exp(m.value), exp(m.value) * m.se)


def naive_ln_ppl_ratio(nll_base: F64Array, nll_cand: F64Array) -> Naive:
    """ln(ppl_cand / ppl_base), paired: the covariance of the two takes away what both find hard."""
    return naive_mean(nll_cand - nll_base)


def naive_rms(values: F64Array) -> Naive:
    m = naive_mean(np.square(values))
    value = sqrt(m.value)
    return Naive(value, m.se / (2 * value) if value else 0.0)


def naive_proportion(hits: NDArray[np.bool_]) -> Naive:
    value = float(hits.mean())
    return Naive(value, sqrt(value * (1 - value) / max(1, hits.size - 1)))


@cache
def t_quantile(confidence: float, df: int) -> float:
    """The t for which |T| <= t has probability `confidence` with `df` degrees of freedom, by bisection."""
    if not 0 < confidence < 1 or df < 1:
        raise ShapeError(f"Student's t takes 0 < confidence < 1 and df >= 1, got {confidence} and {df}")
    low, high = 0.0, 1.0
    while _t_within(high, df) < confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, df) < confidence else (low, middle)
    return high


def _t_within(t: float, df: int) -> float:
    """P(|T| <= t), a finite sum for whole df. Source: Abramowitz and Stegun 26.7.3, 26.7.4."""
    df = min(df, _LARGEST_DF)
    theta = atan(t / sqrt(df))
    odd = df % 2
    term, total = cos(theta) ** odd, 0.0
    for j in range(odd, df - 1, 2):
        total += term
        term *= cos(theta) ** 2 * (j + 1) / (j + 2)
    return 2 / pi * (theta + sin(theta) * total) if odd else sin(theta) * total


def _normal_quantile(confidence: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + confidence) / 2)


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _exp_or_inf(x: float) -> float:
    return exp(x) if x < 709 else float("inf")


def _chunked(values: NDArray[np.floating]) -> F64Array:
    if values.ndim != 2 or not values.size:
        raise ShapeError(f"values are (n_chunk, n_per_chunk), got shape {values.shape}")
    return np.asarray(values, dtype=np.float64)
