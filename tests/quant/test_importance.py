"""Sums and counts against plain definitions; shrinking between its two ends."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from quant.covariance import Covariance, block_width
from quant.errors import ImportanceError, NonFiniteError, ShapeError
from quant.importance import InputSums, importance, input_sums


def routed(seed: int, n_slot: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(7, n_slot, 5)).astype(np.float32)
    experts = np.array([rng.permutation(4)[:2] for _ in range(7)], dtype=np.int32)
    return x, experts


@pytest.mark.parametrize("n_slot", [1, 2])
def test_each_expert_sums_its_own_tokens(n_slot: int) -> None:
    x, experts = routed(1, n_slot)
    got = input_sums(x, experts, 4)
    want, counts = np.zeros((4, 5)), np.zeros(4)
    for token in range(7):
        for slot in range(2):
            want[experts[token, slot]] += x[token, slot % n_slot].astype(np.float64) ** 2
            counts[experts[token, slot]] += 1
    np.testing.assert_allclose(got.sums, want, rtol=1e-5)
    assert got.counts.tolist() == counts.tolist()


@pytest.mark.parametrize("n_slot", [1, 2])
def test_covariance_has_the_sums_on_its_diagonal(n_slot: int) -> None:
    x, experts = routed(2, n_slot)
    got = Covariance.zeros(4, 5)
    got.add(x, experts)
    evidence = input_sums(x, experts, 4)
    sums = np.stack([np.diagonal(got.mean(expert)[0]) * got.mass[expert] for expert in range(4)])
    np.testing.assert_allclose(sums, evidence.sums, rtol=1e-5)
    assert got.counts.tolist() == evidence.counts.tolist()
    for expert in range(4):
        mean = got.mean(expert)
        np.testing.assert_array_equal(mean, np.swapaxes(mean, 1, 2))
        want = evidence.sums[expert] / max(int(evidence.counts[expert]), 1)
        np.testing.assert_allclose(np.diagonal(mean[0]), want, rtol=1e-5)


@pytest.mark.parametrize(("n_tokens", "width"), [(3, 40), (8, 32), (61, 600)])
def test_covariance_is_that_of_the_inputs(n_tokens: int, width: int) -> None:
    x = np.random.default_rng(n_tokens).normal(size=(n_tokens, 1, width)).astype(np.float32)
    got = Covariance.zeros(1, width)
    got.add(x, None)
    np.testing.assert_allclose(got.mean(0)[0], x[:, 0].T @ x[:, 0] / n_tokens, rtol=1e-4, atol=1e-4)


def test_a_prior_is_tokens_of_the_mean_over_all_experts() -> None:
    x, experts = routed(5, 1)
    got = Covariance.zeros(4, 5)
    got.add(x, experts)
    own = [got.mean(expert)[0] * got.counts[expert] for expert in range(4)]
    pooled = sum(own) / got.counts.sum()
    np.testing.assert_allclose(got.mean(2, 10.0)[0], (own[2] + 10 * pooled) / (got.counts[2] + 10), rtol=1e-4)


def test_sums_of_two_texts_are_the_sums_of_both() -> None:
    x, experts = routed(3, 1)
    parts = input_sums(x[:3], experts[:3], 4) + input_sums(x[3:], experts[3:], 4)
    whole = input_sums(x, experts, 4)
    np.testing.assert_allclose(parts.sums, whole.sums, rtol=1e-5)
    assert parts.counts.tolist() == whole.counts.tolist()


def test_rare_experts_lean_on_their_layer_and_common_ones_do_not() -> None:
    sums = np.array([[4e6, 1e6], [4.0, 1.0], [0.0, 0.0]])
    got = importance(InputSums(sums, np.array([1_000_000, 1, 0])), prior_tokens=16)
    pooled = sums.sum(0) / 1_000_001
    np.testing.assert_allclose(got[0], [4, 1], rtol=1e-3)
    np.testing.assert_allclose(got[2], pooled, rtol=1e-6)
    np.testing.assert_allclose(got[1], (sums[1] + 16 * pooled) / 17, rtol=1e-6)


def test_without_a_prior_the_own_mean_stays() -> None:
    got = importance(InputSums(np.array([[8.0], [0.0]]), np.array([4, 0])), prior_tokens=0)
    assert got.tolist() == [[2.0], [2.0]]


def test_nothing_seen_is_flat() -> None:
    assert importance(InputSums(np.zeros((2, 3)), np.zeros(2, dtype=np.int64))).tolist() == [[1.0] * 3] * 2


def test_bad_input_is_named() -> None:
    x, experts = routed(4, 1)
    with pytest.raises(ImportanceError, match=r"experts 0 to 3 were chosen, there are 3"):
        input_sums(x, experts, 3)
    x[2, 0, 1] = np.nan
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        input_sums(x, experts, 4)
    with pytest.raises(ShapeError, match="cannot be added"):
        InputSums(np.zeros((1, 3)), np.zeros(1, dtype=np.int64)) + InputSums(
            np.zeros((1, 4)), np.zeros(1, dtype=np.int64)
        )


def test_wide_rows_are_kept_in_blocks_of_whole_super_blocks() -> None:
    assert block_width(4096, 4096) == 4096
    assert block_width(14336, 4096) == 3584
    assert block_width(11008, 4096) == 3840
    assert block_width(8960, 9216) == 8960
    assert block_width(172, 4096) == 172


def test_a_layer_is_summed_anew_when_more_is_seen() -> None:
    x, experts = routed(4, 1)
    got, twice = Covariance.zeros(4, 5), Covariance.zeros(4, 5)
    got.add(x, experts)
    before = got.mean(0, prior=7.0), got.layer
    got.add(x, experts)
    for _ in range(2):
        twice.add(x, experts)
    assert np.array_equal(got.mean(0, prior=7.0), twice.mean(0, prior=7.0))
    assert not np.array_equal(got.layer, before[1])
    got.forget()
    assert np.array_equal(got.layer, got.sums.sum(axis=0))


def test_threads_change_no_sum() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((77, 1, 600)).astype(np.float32)
    one, many = Covariance.zeros(1, 600), Covariance.zeros(1, 600)
    one.add(x, None)
    with ThreadPoolExecutor(3) as pool:
        many.add(x, None, each=pool.map)
    assert np.array_equal(one.sums, many.sums)
    wanted = np.triu(x[:, 0].astype(np.float64).T @ x[:, 0])
    np.testing.assert_allclose(np.triu(one.mean(0)[0]) * 77, wanted, atol=1e-3)
