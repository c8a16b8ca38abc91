"""Bounds that hold at every look: error rates by seeded simulation, and cases known beforehand."""

import numpy as np
import pytest

from quant import confseq
from quant.confseq import Bounds, Outcome
from quant.errors import ShapeError

ALPHA = 0.05
N_RUN = 300
N = 60
# at a true rate of ALPHA, more errors than this happen in one of a thousand simulations
MOST_ERRORS = N_RUN * ALPHA + 3.1 * np.sqrt(N_RUN * ALPHA * (1 - ALPHA))


def normal(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 1, N)


def kld_chunks(rng: np.random.Generator) -> np.ndarray:
    """Means over 255 tokens whose divergence is lognormal: a mean seven times the median, as in real models."""
    return rng.lognormal(0, 2, (N, 255)).mean(axis=1) / np.exp(2)


def misses(rng: np.random.Generator) -> np.ndarray:
    return rng.binomial(255, 0.05, N) / 255


def ever(bounds: list[Bounds], truth: float) -> tuple[bool, bool]:
    """Whether any look put the mean above, below the truth."""
    return any(b.low > truth for b in bounds), any(b.high < truth for b in bounds)


@pytest.mark.parametrize(("draw", "truth"), [(kld_chunks, 1.0), (misses, 0.05)])
def test_bounded_is_rarely_wrong_at_any_look(draw, truth: float) -> None:
    too_high, too_low = 0, 0
    for seed in range(N_RUN):
        # bounds use all prefixes: the last look tells whether any was wrong
        last = confseq.bounded(draw(np.random.default_rng(seed)), 4 * truth, alpha_low=ALPHA, alpha_high=ALPHA)
        too_high += last.low > truth
        too_low += last.high < truth
    assert max(too_high, too_low) <= MOST_ERRORS


def test_unbounded_is_rarely_wrong_at_any_look() -> None:
    errors = np.zeros(2, dtype=int)
    for seed in range(N_RUN):
        x = normal(np.random.default_rng(seed))
        looks = [confseq.unbounded(x[:n], alpha_low=ALPHA, alpha_high=ALPHA, n_plan=30) for n in range(1, N + 1)]
        errors += ever(looks, 0.0)
    assert errors.max() <= MOST_ERRORS


def test_a_fixed_size_interval_looked_at_often_is_wrong_often() -> None:
    """What the sequences are for: the usual bound, looked at after every chunk, is wrong more than twice as often."""
    wrong = 0
    for seed in range(N_RUN):
        x = normal(np.random.default_rng(seed))
        wrong += any(x[:n].mean() + 1.645 * x[:n].std(ddof=1) / np.sqrt(n) < 0 for n in range(5, N + 1))
    assert wrong > 2 * MOST_ERRORS


@pytest.mark.parametrize("ratio", [0.4, 2.0])
def test_clear_cases_are_decided_long_before_the_end(ratio: float) -> None:
    expected = Outcome.PASS if ratio < 1 else Outcome.FAIL
    for seed in range(20):
        x = kld_chunks(np.random.default_rng(seed)) * ratio
        bounds = confseq.bounded(x[:30], 4.0, alpha_low=ALPHA, alpha_high=ALPHA)
        assert confseq.decide(bounds, 1.0) is expected


@pytest.mark.parametrize("ratio", [0.4, 0.9, 1.5])
def test_looks_say_what_the_bounds_say(ratio: float) -> None:
    code = {Outcome.PASS: 1, Outcome.INCONCLUSIVE: 0, Outcome.FAIL: -1}
    alphas = {"alpha_low": 0.02, "alpha_high": 0.05}
    x = kld_chunks(np.random.default_rng(9)) * ratio
    looks = confseq.bounded_looks(x, 4.0, 1.0, **alphas)
    one_by_one = [confseq.decide(confseq.bounded(x[:n], 4.0, **alphas), 1.0) for n in range(1, N + 1)]
    assert looks.tolist() == [code[outcome] for outcome in one_by_one]
    y = x - 1.2
    looks = confseq.unbounded_looks(y, 0.1, **alphas, n_plan=20)
    one_by_one = [confseq.decide(confseq.unbounded(y[:n], **alphas, n_plan=20), 0.1) for n in range(1, N + 1)]
    assert looks.tolist() == [code[outcome] for outcome in one_by_one]


def test_bounded_agrees_with_bets_counted_by_hand() -> None:
    """Equal values x: a stake f of the bank grows by 1 + f (x/m - 1) each time."""
    n, x, m = 9, 0.8, 0.5
    by_hand = sum(
        (1 / j**2) * (1 + 0.95 / 2 ** (j - 1) * (x / m - 1)) ** n for j in range(1, 12)
    ) / sum(1 / j**2 for j in range(1, 12))  # fmt: skip
    low = confseq.bounded(np.full(n, x), 1.0, alpha_low=1 / by_hand, alpha_high=ALPHA).low
    assert low == pytest.approx(m, abs=1e-9)


def test_unbounded_agrees_with_the_mixture_integrated_by_hand() -> None:
    """The bound refutes exactly the means whose likelihood, effects mixed over a normal, is 1/a times the null's."""
    x = np.random.default_rng(5).normal(0.3, 1, 12)
    alpha, n_plan = 0.05, 20
    a = 2 * alpha / (1 + alpha)
    c = n_plan / (-2 * np.log(a) + np.log(1 - 2 * np.log(a)))
    z = x - confseq.unbounded(x, alpha_low=alpha, alpha_high=alpha, n_plan=n_plan).low
    sigma = np.geomspace(0.02, 200, 4001)[:, None]  # dσ/σ is even on this grid
    effect = np.linspace(-6, 6, 1201)[None, :] / np.sqrt(c)
    square, total, n = (z**2).sum(), z.sum(), len(z)
    log_like = -n * np.log(sigma) - (square / sigma**2 - 2 * effect * total / sigma + n * effect**2) / 2
    prior = np.exp(-c * effect**2 / 2)
    prior /= prior.sum()
    mixed = (np.exp(log_like) * prior).sum()
    null = np.exp(-n * np.log(sigma) - square / sigma**2 / 2).sum()
    assert mixed / null == pytest.approx(1 / a, rel=1e-3)


def test_bounds_hug_the_mean_as_values_come_in() -> None:
    x = np.random.default_rng(6).uniform(0, 1, 400)
    few = confseq.bounded(x[:40], 1.0, alpha_low=ALPHA, alpha_high=ALPHA)
    many = confseq.bounded(x, 1.0, alpha_low=ALPHA, alpha_high=ALPHA)
    assert few.low <= many.low <= many.mean <= many.high <= few.high
    assert many.high - many.low < 0.15
    few = confseq.unbounded(x[:40], alpha_low=ALPHA, alpha_high=ALPHA, n_plan=100)
    many = confseq.unbounded(x, alpha_low=ALPHA, alpha_high=ALPHA, n_plan=100)
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_equal_values_leave_no_doubt_and_few_values_no_bound() -> None:
    zeros = np.zeros(8)
    assert confseq.unbounded(zeros, alpha_low=ALPHA, alpha_high=ALPHA, n_plan=8) == (0, 0, 0)
    one = confseq.unbounded(np.ones(1), alpha_low=ALPHA, alpha_high=ALPHA, n_plan=8)
    assert (one.low, one.high) == (-np.inf, np.inf)
    assert confseq.bounded(zeros, 1.0, alpha_low=ALPHA, alpha_high=ALPHA).low == 0


def test_clipping_is_of_values_above_the_upper_bound() -> None:
    x = np.array([0.1, 0.2, 50.0])
    clipped = confseq.bounded(x, 1.0, alpha_low=ALPHA, alpha_high=ALPHA)
    assert clipped == confseq.bounded(np.array([0.1, 0.2, 1.0]), 1.0, alpha_low=ALPHA, alpha_high=ALPHA)


@pytest.mark.parametrize(
    ("low", "high", "at_least", "expected"),
    [
        (0.1, 0.4, False, Outcome.PASS),
        (0.4, 0.5, False, Outcome.PASS),
        (0.4, 0.6, False, Outcome.INCONCLUSIVE),
        (0.5, 0.6, False, Outcome.INCONCLUSIVE),
        (0.6, 0.7, False, Outcome.FAIL),
        (0.6, 0.7, True, Outcome.PASS),
        (0.4, 0.6, True, Outcome.INCONCLUSIVE),
        (0.1, 0.4, True, Outcome.FAIL),
        (-np.inf, np.inf, False, Outcome.INCONCLUSIVE),
    ],
)
def test_three_outcomes(low: float, high: float, at_least: bool, expected: Outcome) -> None:
    assert confseq.decide(Bounds(0.0, low, high), 0.5, at_least=at_least) is expected


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ShapeError, match="at least one"):
        confseq.bounded(np.zeros(0), 1.0, alpha_low=ALPHA, alpha_high=ALPHA)
    with pytest.raises(ShapeError, match="values of 0 or more"):
        confseq.bounded(np.array([-0.1]), 1.0, alpha_low=ALPHA, alpha_high=ALPHA)
    with pytest.raises(ShapeError, match="alphas lie between 0 and 1, got 0"):
        confseq.unbounded(np.ones(3), alpha_low=0.0, alpha_high=ALPHA, n_plan=5)
    with pytest.raises(ShapeError, match="finite"):
        confseq.unbounded(np.array([np.nan]), alpha_low=ALPHA, alpha_high=ALPHA, n_plan=5)
    with pytest.raises(ShapeError, match="n_plan"):
        confseq.unbounded(np.ones(3), alpha_low=ALPHA, alpha_high=ALPHA, n_plan=0)
