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
    _check(values, alpha_low, alpha_high)
    if values.min() < 0 or not upper > 0:
        raise ShapeError(f"bounded takes values of 0 or more and a positive upper, got {values.min()} and {upper}")
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


def _lower_bound(values: F64Array, alpha: float) -> float:
    """The largest mean that the bets have refuted at some look; 0 where none."""
    if _best_wealth(values, 1e-12) < 1 / alpha:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _best_wealth(values, middle) >= 1 / alpha else (low, middle)
    return low


def _best_wealth(values: F64Array, mean: float) -> float:
    """The most that betting on values above `mean` was worth at any look, from a start of 1. Falls as `mean` rises."""
    growth = np.log1p(_STAKES[:, None] * (values / mean - 1))  # (n_stakes, n)
    wealth = _SPLIT @ np.exp(np.minimum(np.cumsum(growth, axis=1), 700))  # (n,)
    return float(wealth.max())


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


def _check(values: F64Array, alpha_low: float, alpha_high: float) -> None:
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ShapeError(f"values are (n,), finite, at least one; got shape {values.shape}")
    if not (0 < alpha_low < 1 and 0 < alpha_high < 1):
        raise ShapeError(f"alphas lie between 0 and 1, got {alpha_low} and {alpha_high}")
