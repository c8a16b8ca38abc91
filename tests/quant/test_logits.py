"""Numbers a token, against textbook formulas in float64 and against facts that need no oracle."""

import subprocess
import sys

import numpy as np
import pytest

from quant import logits
from quant.errors import NonFiniteError, ShapeError

N, V = 40, 300


def random_logits(seed: int, *, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (N, V)).astype(np.float32)


def near(base: np.ndarray, seed: int, noise: float) -> np.ndarray:
    """Logits of a model like `base`: what quantization does."""
    return base + np.random.default_rng(seed).normal(0, noise, base.shape).astype(np.float32)


def log_softmax(x: np.ndarray) -> np.ndarray:
    """The definition, in float64."""
    x = x.astype(np.float64)
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def exact_kld(base: np.ndarray, cand: np.ndarray) -> np.ndarray:
    p, q = log_softmax(base), log_softmax(cand)
    return (np.exp(p) * (p - q)).sum(axis=1)


TARGETS = np.arange(N) * 7 % V


def test_nll_follows_the_definition() -> None:
    x = random_logits(0)
    expected = -log_softmax(x)[np.arange(N), TARGETS]
    np.testing.assert_allclose(logits.nll(x, TARGETS), expected, rtol=1e-13)


def test_uniform_logits_cost_ln_n_vocab() -> None:
    np.testing.assert_allclose(logits.nll(np.zeros((3, V), np.float32), [0, 1, V - 1]), np.log(V), rtol=1e-14)


@pytest.mark.parametrize("peak", [0.0, 8.0, 80.0, 3e38])
def test_a_peak_neither_overflows_nor_loses_the_rest(peak: float) -> None:
    x = np.full((1, V), -peak, np.float32)
    x[0, 5] = peak
    expected = np.logaddexp(0, np.log(V - 1) - 2 * peak)
    np.testing.assert_allclose(logits.nll(x, [5]), [expected], rtol=1e-12, atol=1e-15)


def test_comparison_follows_the_definitions() -> None:
    base, cand = random_logits(1), near(random_logits(1), 2, 0.3)
    got = logits.compare(base, cand, TARGETS)
    rows = np.arange(N)
    p, q = log_softmax(base), log_softmax(cand)
    np.testing.assert_allclose(got.nll_base, -p[rows, TARGETS], rtol=1e-13)
    np.testing.assert_allclose(got.nll_cand, -q[rows, TARGETS], rtol=1e-13)
    np.testing.assert_allclose(got.kld, exact_kld(base, cand), rtol=1e-12)
    np.testing.assert_allclose(got.dp, np.exp(q[rows, TARGETS]) - np.exp(p[rows, TARGETS]), atol=1e-15)
    assert (got.same_top == (p.argmax(axis=1) == q.argmax(axis=1))).all()
    assert 0 < got.same_top.sum() < N


def test_tiny_divergence_keeps_its_digits() -> None:
    base = random_logits(3)
    cand = near(base, 4, 1e-4)
    np.testing.assert_allclose(logits.compare(base, cand, TARGETS).kld, exact_kld(base, cand), rtol=1e-6)


def test_a_model_against_itself_differs_by_exactly_nothing() -> None:
    x = random_logits(5)
    got = logits.compare(x, x.copy(), TARGETS)
    assert not got.kld.any()
    assert not got.dp.any()
    assert got.same_top.all()


def test_adding_a_constant_to_a_row_changes_nothing() -> None:
    base = np.round(random_logits(6) * 64) / 64  # exact in float32 after the shift too
    cand = np.round(near(base, 7, 0.3) * 64) / 64
    shift = (np.arange(N, dtype=np.float32) - 20)[:, None]
    one, two = logits.compare(base, cand, TARGETS), logits.compare(base + shift, cand - shift, TARGETS)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_equal_maxima_go_to_the_lower_id() -> None:
    base = np.zeros((1, 4), np.float32)
    cand = base.copy()
    cand[0, 2] = 1
    assert not logits.compare(base, cand, [0]).same_top[0]
    cand[0, 2], cand[0, 0] = 0, 1
    assert logits.compare(base, cand, [0]).same_top[0]


def test_rows_are_independent() -> None:
    base, cand = random_logits(8), random_logits(9)
    whole = logits.compare(base, cand, TARGETS)
    slab = logits.compare(base[10:20], cand[10:20], TARGETS[10:20])
    for a, b in zip(whole, slab, strict=True):
        assert (a[10:20] == b).all()


def test_top_k_and_tail_add_up_to_one() -> None:
    x = random_logits(10)
    top = logits.top_k(x, 20)
    p = np.exp(log_softmax(x))
    order = np.argsort(-p, axis=1, kind="stable")
    assert (top.ids == order[:, :20]).all()
    np.testing.assert_allclose(np.exp(top.log_probs), np.take_along_axis(p, order[:, :20], axis=1), rtol=1e-12)
    np.testing.assert_allclose(np.exp(top.log_probs).sum(axis=1) + np.exp(top.log_tail), 1, rtol=1e-12)


def test_a_tail_far_below_one_keeps_its_digits() -> None:
    x = np.full((1, 50), -40, np.float32)
    x[0, 3] = 0
    np.testing.assert_allclose(logits.top_k(x, 1).log_tail, np.log(49) - 40, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, V])
def test_top_k_takes_equal_values_by_id(k: int) -> None:
    top = logits.top_k(np.zeros((2, V), np.float32), k)
    assert (top.ids == np.arange(k)).all()
    expected = np.log((V - k) / V) if k < V else -np.inf
    np.testing.assert_allclose(top.log_tail, expected, rtol=1e-12)


def stratified(n: int, m: int, seed: int) -> np.ndarray:
    return (np.arange(m) + np.random.default_rng(seed).random((n, m))) / m


@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_sketch_estimates_divergence_without_bias_and_never_above_its_bound(noise: float) -> None:
    base = random_logits(11, scale=1.5)
    cand = near(base, 12, noise)
    exact = exact_kld(base, cand)
    runs = []
    for seed in range(400):
        kept = logits.sketch(base, TARGETS, 8, stratified(N, 4, seed))
        got = logits.compare_sketch(kept, cand, TARGETS)
        assert (got.kld_low <= exact + 1e-12).all()
        assert (got.kld >= got.kld_low).all()
        runs.append(got.kld.mean())
    se = np.std(runs) / np.sqrt(len(runs))
    assert abs(np.mean(runs) - exact.mean()) < 4 * se
    # one run is near already: the draws add less than a fifth to the figure
    assert np.std(runs) < 0.2 * exact.mean()


def test_sketch_of_everything_is_exact() -> None:
    base, cand = random_logits(13), random_logits(14)
    got = logits.compare_sketch(logits.sketch(base, TARGETS, V, np.empty((N, 0))), cand, TARGETS)
    full = logits.compare(base, cand, TARGETS)
    for field in full._fields:
        np.testing.assert_allclose(getattr(got, field), getattr(full, field), rtol=1e-12, atol=1e-15)


def test_sketch_against_its_own_model_is_zero() -> None:
    x = random_logits(15)
    got = logits.compare_sketch(logits.sketch(x, TARGETS, 5, stratified(N, 3, 0)), x, TARGETS)
    np.testing.assert_allclose(got.kld, 0, atol=1e-12)
    assert got.same_top.all()


def test_draws_follow_the_tail() -> None:
    x = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], dtype=np.float32)).repeat(2000, axis=0)
    kept = logits.sketch(x, np.zeros(2000, int), 1, stratified(2000, 5, 1))
    share = np.bincount(kept.draw_ids.ravel(), minlength=4) / kept.draw_ids.size
    np.testing.assert_allclose(share, [0, 0.6, 0.3, 0.1], atol=0.01)
    np.testing.assert_allclose(kept.draw_log_probs, x[0][kept.draw_ids], atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    x = random_logits(16)
    y = x.copy()
    y[7, 123] = bad
    with pytest.raises(NonFiniteError, match=r"^logits: row 7 token 123 is"):
        logits.nll(y, TARGETS)
    with pytest.raises(NonFiniteError, match=r"^base logits: row 7 token 123 is"):
        logits.compare(y, x, TARGETS)
    with pytest.raises(NonFiniteError, match=r"^candidate logits: row 7 token 123 is"):
        logits.compare(x, y, TARGETS)


def test_shapes_that_do_not_fit_are_named() -> None:
    x = random_logits(17)
    with pytest.raises(ShapeError, match=r"base logits have shape \(40, 300\), the candidate's \(40, 299\)"):
        logits.compare(x, x[:, :299], TARGETS)
    with pytest.raises(ShapeError, match="need as many targets"):
        logits.nll(x, TARGETS[:3])
    with pytest.raises(ShapeError, match="targets go from 0 to 300, the vocabulary has 300"):
        logits.nll(x[:2], [0, 300])
    with pytest.raises(ShapeError, match="top-k takes 1 to 300"):
        logits.top_k(x, 301)
    with pytest.raises(ShapeError, match=r"logits are \(n_tokens, n_vocab\)"):
        logits.log_sum_exp(x[0])


def test_numba_is_not_loaded_by_the_import() -> None:
    code = "import sys, quant.logits; print('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
