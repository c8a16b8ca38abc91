"""Confidence sequences: bounds of a mean that hold at every look, so that a test may stop as soon as it is sure.

    values of chunks, in random order ──► Bounds (low, high) ──► decide(bounds, limit) ──► pass | fail | inconclusive

Each bound alone is wrong at any look, ever, with probability at most its alpha. Two kinds:

bounded   Values in [0, upper], any distribution: wealth of bets against a mean m. A fair game multiplies no stake by
          1 / alpha but with probability alpha (Ville); the bound is the first m against which all bets fell short.
          What is heavy-tailed is clipped at `upper` first: the bound from above is then one of the clipped mean.
          Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting".
unbounded Values without known bounds: the Gaussian test with unknown spread, effect sizes mixed over a normal.
          Exact for normal values at any number of them, asymptotic for others; means of chunks are nearly normal.
          Source: Lai 1976; Wang and Ramdas 2024, "Anytime-valid t-tests and confidence sequences".

Assumes values exchangeable: shuffle the chunks of a text first. Knows no metric and no model.
"""

from enum import StrEnum
from math import exp, inf, log, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.errors import ShapeError

F64Array = NDArray[np.float64]

# Stakes as shares of what can be lost, and how the bank is split over them. A mean far from the one betted against
# pays best at the highest stake, a near one at a low stake; the split costs little against knowing the best.
_STAKES = 0.95 * 0.5 ** np.arange(11)
_SPLIT = 1 / np.arange(1, 12) ** 2
_SPLIT /= _SPLIT.sum()
_BISECTIONS = 40


class Outcome(StrEnum):
    """What a test says so far."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Bounds(NamedTuple):
    """The mean so far, and where the true one lies; each side has its own alpha."""

    mean: float
    low: float
    high: float


def bounded(values: F64Array, upper: float, *, alpha_low: float, alpha_high: float) -> Bounds:
    """Bounds of the mean of min(values, upper) for `values` (n,) of 0 or more, valid at every n.

    alpha_low, alpha_high  chance that the mean is ever below `low`, above `high`

    The smaller `upper`, the fewer values are needed for `high`; it must be chosen beforehand. All prefixes of
    `values` are used, so that a bound once reached is kept.
    """
    _check_bounded(values, upper, alpha_low, alpha_high)
    share = np.minimum(values / upper, 1.0)
    low, high = _lower_bound(share, alpha_low), 1 - _lower_bound(1 - share, alpha_high)
    return Bounds(float(share.mean()) * upper, low * upper, high * upper)


def unbounded(values: F64Array, *, alpha_low: float, alpha_high: float, n_plan: int) -> Bounds:
    """Bounds of the mean of `values` (n,), valid at every n.

    n_plan  number of values at which the bounds are to be tightest; any choice made beforehand is valid

    Infinite for as long as the values are too few to bound anything.
    """
    _check(values, alpha_low, alpha_high)
    if n_plan < 1:
        raise ShapeError(f"n_plan is at least 1, got {n_plan}")
    mean, spread = float(values.mean()), float(values.std())
    return Bounds(
        mean,
        mean - _reach(len(values), spread, alpha_low, n_plan),
        mean + _reach(len(values), spread, alpha_high, n_plan),
    )


def decide(bounds: Bounds, limit: float, *, at_least: bool = False) -> Outcome:
    """Whether the mean is within `limit`: at most it, or at least it.

    Pass where the whole interval is within, fail where it is wholly beyond, else inconclusive.
    """
    low, high = (-bounds.high, -bounds.low) if at_least else (bounds.low, bounds.high)
    limit = -limit if at_least else limit
    if high <= limit:
        return Outcome.PASS
    return Outcome.FAIL if low > limit else Outcome.INCONCLUSIVE


def bounded_looks(
    values: F64Array, upper: float, limit: float, *, alpha_low: float, alpha_high: float
) -> NDArray[np.int8]:
    """What `decide(bounded(values[:i + 1], …), limit)` says at every look i: 1 pass, -1 fail, 0 open; (n,)."""
    _check_bounded(values, upper, alpha_low, alpha_high)
    share, mean = np.minimum(values / upper, 1.0), limit / upper
    if not 0 < mean < 1:
        return np.where(np.full(len(values), mean >= 1), 1, 0).astype(np.int8)
    below = np.maximum.accumulate(_wealth(1 - share, 1 - mean)) >= 1 / alpha_high
    above = np.maximum.accumulate(_wealth(share, mean)) >= 1 / alpha_low
    return np.where(below, 1, np.where(above, -1, 0)).astype(np.int8)


def unbounded_looks(
    values: F64Array, limit: float, *, alpha_low: float, alpha_high: float, n_plan: int
) -> NDArray[np.int8]:
    """What `decide(unbounded(values[:i + 1], …), limit)` says at every look i: 1 pass, -1 fail, 0 open; (n,)."""
    _check(values, alpha_low, alpha_high)
    n = np.arange(1, len(values) + 1)
    mean = np.cumsum(values) / n
    spread = np.sqrt(np.maximum(np.cumsum(np.square(values)) / n - mean**2, 0.0))
    reach_low, reach_high = (
        np.array([_reach(int(i), float(s), alpha, n_plan) for i, s in zip(n, spread, strict=True)])
        for alpha in (alpha_low, alpha_high)
    )
    return np.where(mean + reach_high <= limit, 1, np.where(mean - reach_low > limit, -1, 0)).astype(np.int8)


def _lower_bound(values: F64Array, alpha: float) -> float:
    """The largest mean that the bets have refuted at some look; 0 where none."""
    if _wealth(values, 1e-12).max() < 1 / alpha:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _wealth(values, middle).max() >= 1 / alpha else (low, middle)
    return low


def _wealth(values: F64Array, mean: float) -> F64Array:
    """What betting on values above `mean` is worth at each look (n,), from a start of 1. Falls as `mean` rises."""
    growth = np.log1p(_STAKES[:, None] * (values / mean - 1))  # (n_stakes, n)
    wealth: F64Array = _SPLIT @ np.exp(np.minimum(np.cumsum(growth, axis=1), 700))  # (n,)
    return wealth


def _reach(n: int, spread: float, alpha: float, n_plan: int) -> float:
    """Distance of a one-sided bound from the mean of n values with standard deviation `spread` (over n).

    With prior effect sizes normal of variance 1 / c, the mixture of both signs refutes a mean at distance d when

        sqrt(c / (n + c)) · [ (n + c)(s² + d²) / ((n + c) s² + c d²) ]^(n/2)  >=  1 / a

    and the half of it that bets on d's own sign is at least twice that less 1: a = 2 alpha / (1 + alpha).
    """
    a = 2 * alpha / (1 + alpha)
    c = n_plan / (-2 * log(a) + log(1 - 2 * log(a)))
    k = exp((log((n + c) / c) - 2 * log(a)) / n)
    if n < 2 or n + c <= k * c:
        return inf
    return spread * sqrt((k - 1) * (n + c) / (n + c - k * c))


def _check_bounded(values: F64Array, upper: float, alpha_low: float, alpha_high: float) -> None:
    _check(values, alpha_low, alpha_high)
    if values.min() < 0 or not upper > 0:
        raise ShapeError(f"bounded takes values of 0 or more and a positive upper, got {values.min()} and {upper}")


def _check(values: F64Array, alpha_low: float, alpha_high: float) -> None:
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ShapeError(f"values are (n,), finite, at least one; got shape {values.shape}")
    if not (0 < alpha_low < 1 and 0 < alpha_high < 1):
        raise ShapeError(f"alphas lie between 0 and 1, got {alpha_low} and {alpha_high}")
