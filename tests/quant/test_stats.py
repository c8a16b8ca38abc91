"""Figures and intervals: against published tables, textbook values, and how often an interval holds the truth."""

import numpy as np
import pytest

from quant import stats
from quant.errors import ShapeError


@pytest.mark.parametrize(
    ("confidence", "df", "expected"),
    [
        (0.95, 1, 12.706),
        (0.95, 2, 4.303),
        (0.95, 7, 2.365),
        (0.95, 10, 2.228),
        (0.95, 30, 2.042),
        (0.99, 5, 4.032),
        (0.99, 60, 2.660),
        (0.90, 120, 1.658),
        (0.95, 100_000, 1.96),
    ],
)
def test_t_quantile_is_the_one_in_the_tables(confidence: float, df: int, expected: float) -> None:
    assert stats.t_quantile(confidence, df) == pytest.approx(expected, abs=3e-3 if df > 1000 else 6e-4)


def test_naive_figures_follow_llama_perplexity() -> None:
    # mean_and_uncertainty: f = sum/n, df = sqrt((sum2/n - f²) / (n - 1)); the ratio's variance is
    # var(cand) + var(base) - 2 cov, each of them divided by n - 1
    rng = np.random.default_rng(0)
    base = rng.exponential(2.0, (5, 40))
    cand = base + rng.normal(0.01, 0.1, base.shape)
    n = base.size
    v_cand, v_base = cand.var() / (n - 1), base.var() / (n - 1)
    cov = ((cand * base).mean() - cand.mean() * base.mean()) / (n - 1)
    got = stats.naive_ln_ppl_ratio(base, cand)
    assert got.value == pytest.approx(np.log(np.exp(cand.mean()) / np.exp(base.mean())))
    assert got.se == pytest.approx(np.sqrt(v_cand + v_base - 2 * cov), rel=1e-9)
    ppl = stats.naive_perplexity(cand)
    assert ppl == pytest.approx((np.exp(cand.mean()), np.exp(cand.mean()) * np.sqrt(v_cand)))
    hits = cand > base
    share = hits.mean()
    assert stats.naive_proportion(hits) == pytest.approx((share, np.sqrt(share * (1 - share) / (n - 1))))
    square = np.square(cand)
    expected = np.sqrt(square.mean()), 0.5 / np.sqrt(square.mean()) * np.sqrt(square.var() / (n - 1))
    assert stats.naive_rms(cand) == pytest.approx(expected)


def test_wilson_gives_the_known_interval() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20
    assert stats.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert stats.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_clustered_error_grows_with_what_chunks_share() -> None:
    rng = np.random.default_rng(1)
    alone = rng.normal(0, 1, (40, 50))
    shared = alone + rng.normal(0, 1, (40, 1))
    assert stats.mean(alone).se == pytest.approx(stats.naive_mean(alone).se, rel=0.3)
    assert stats.mean(shared).se > 4 * stats.naive_mean(shared).se


@pytest.mark.parametrize("n_chunk", [4, 30])
def test_interval_of_the_mean_holds_the_truth_as_often_as_it_says(n_chunk: int) -> None:
    rng = np.random.default_rng(2)
    n_run = 2000
    held = 0
    for _ in range(n_run):
        figure = stats.mean(rng.normal(0, 1, (n_chunk, 8)) + rng.normal(0, 1, (n_chunk, 1)))
        held += figure.low <= 0 <= figure.high
    assert abs(held / n_run - 0.95) < 4 * np.sqrt(0.95 * 0.05 / n_run)


def test_interval_of_a_share_holds_the_truth_although_tokens_agree() -> None:
    rng = np.random.default_rng(3)
    held, naive = 0, 0
    for _ in range(1000):
        chance = rng.beta(19, 1, (40, 1))  # mean 0.95
        hits = rng.random((40, 100)) < chance
        figure = stats.proportion(hits)
        low, high = stats.wilson(int(hits.sum()), hits.size)
        held += figure.low <= 0.95 <= figure.high
        naive += low <= 0.95 <= high
    assert held > 920
    assert naive < 700  # what taking tokens as independent would give


def test_share_without_a_miss_is_not_certain() -> None:
    figure = stats.proportion(np.ones((10, 100), bool))
    assert figure.value == figure.high == 1
    assert 0.99 < figure.low < 1


def test_quantile_interval_holds_the_truth() -> None:
    rng = np.random.default_rng(4)
    truth = -np.log(0.1)  # the 90 % quantile of the exponential
    held = 0
    for _ in range(500):
        figure = stats.quantile(rng.exponential(1, (30, 60)), 0.9)
        held += figure.low <= truth <= figure.high
    assert 455 < held < 495


def test_a_quantile_beyond_the_values_has_no_bound_there() -> None:
    """99.9 % of 300 values: the true one often lies above all of them, so no largest value may stand for a bound."""
    rng = np.random.default_rng(5)
    truth, held = -np.log(0.001), 0
    for _ in range(300):
        figure = stats.quantile(rng.exponential(1, (5, 60)), 0.999)
        held += figure.low <= truth <= figure.high
    assert held > 280
    assert stats.quantile(np.arange(60.0).reshape(3, 20), 1.0)[2:] == (59, np.inf)
    assert stats.quantile(np.arange(60.0).reshape(3, 20), 0.5).low == -np.inf
    assert stats.quantile(np.zeros((3, 4)), 0.99) == (0, 0, 0, 0)


def test_quantile_is_linear_between_neighbours() -> None:
    assert stats.quantile(np.arange(11.0).reshape(1, 11), 0.25).value == 2.5


def test_rms_and_perplexity_of_constants() -> None:
    assert stats.rms(np.full((3, 4), -2.0)) == pytest.approx((2, 0, 2, 2))
    assert stats.rms(np.zeros((3, 4))) == (0, 0, 0, 0)
    assert stats.perplexity(np.full((3, 4), np.log(7))) == pytest.approx((7, 0, 7, 7))


def test_one_chunk_gives_a_figure_without_bounds() -> None:
    figure = stats.mean(np.array([[1.0, 3.0]]))
    assert figure.value == 2
    assert np.isnan(figure.se)
    assert (figure.low, figure.high) == (-np.inf, np.inf)
    assert stats.perplexity(np.array([[1.0, 3.0]])).high == np.inf
    assert stats.proportion(np.array([[True, False]]))[2:] == (0, 1)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ShapeError, match=r"values are \(n_chunk, n_per_chunk\), got shape \(3,\)"):
        stats.mean(np.zeros(3))
    with pytest.raises(ShapeError, match="got 5 of 4"):
        stats.wilson(5, 4)
    with pytest.raises(ShapeError, match="df >= 1"):
        stats.t_quantile(0.95, 0)
