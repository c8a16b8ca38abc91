"""Rows that are encoded together: what their errors cost together, and what must not depend on how they come."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

import quant
from quant import feedback
from quant.coupling import Coupling, coupling, encode, group_rows, step_rows
from quant.curvature import Curvature, curvature

F32Array = NDArray[np.float32]
N, SIZE = 512, 192
Q3_K = quant.quant_type("Q3_K")


def drawn(rng: np.random.Generator, n: int, n_tokens: int = 3000) -> F32Array:
    """Second moments of vectors (n,) that share a few directions."""
    x = rng.standard_normal((n_tokens, n // 4)) @ rng.standard_normal((n // 4, n)) / np.sqrt(n // 4)
    x += 0.3 * rng.standard_normal(x.shape)
    moments: F32Array = (x.T @ x / n_tokens).astype(np.float32)
    return moments


@pytest.fixture(scope="module")
def inputs() -> F32Array:
    return drawn(np.random.default_rng(0), N)


@pytest.fixture(scope="module")
def curve(inputs: F32Array) -> Curvature:
    return curvature(inputs[None])


def gradients(n_group: int) -> F32Array:
    return np.stack([drawn(np.random.default_rng(i), SIZE) for i in range(n_group)])


def weights(n_rows: int) -> F32Array:
    return np.random.default_rng(7).standard_normal((n_rows, N)).astype(np.float32)


def cost(w: F32Array, blocks: NDArray[np.uint8], g: F32Array, h: F32Array) -> float:
    lost = (quant.dequantize(blocks, Q3_K) - w).astype(np.float64)
    return float(np.sum((g @ lost) * (lost @ h)))


@pytest.mark.parametrize("n_refine", [0, 2])
def test_errors_cost_less_than_those_of_rows_by_themselves(inputs: F32Array, curve: Curvature, n_refine: int) -> None:
    g, w = gradients(1), weights(SIZE)
    alone = feedback.encode(w, Q3_K, curve, n_refine=n_refine)
    together = encode(w, Q3_K, curve, coupling(g.copy(), 3000), first=0, n_refine=n_refine)
    assert cost(w, together, g[0], inputs) < 0.7 * cost(w, alone, g[0], inputs)


def test_the_factor_tells_what_is_left(inputs: F32Array, curve: Curvature) -> None:
    """Without damping that counts, of rows that have errors alike."""
    g, w = gradients(1), weights(SIZE)
    rows = coupling(g.copy(), 1e9)
    found = cost(w, encode(w, Q3_K, curve, rows, first=0), g[0], inputs)
    diagonal = np.diag(np.diag(g[0]))
    alone = cost(w, feedback.encode(w, Q3_K, curve), diagonal, inputs)
    left = np.trace(rows.pull[0]) / np.trace(g[0])
    assert 0.2 < left < 0.9
    assert found / alone == pytest.approx(left, rel=0.4)


def test_outputs_that_have_nothing_in_common_are_encoded_by_themselves(curve: Curvature) -> None:
    g = np.diag(np.random.default_rng(3).random(SIZE).astype(np.float32))
    w = weights(SIZE)
    rows = coupling(g[None].copy(), 3000)
    assert not np.triu(rows.pull[0], 1).any()
    assert np.array_equal(encode(w, Q3_K, curve, rows, first=0), feedback.encode(w, Q3_K, curve))


def test_groups_can_come_one_by_one_and_the_last_may_be_short(curve: Curvature) -> None:
    g, w = gradients(3), weights(2 * SIZE + 80)
    g[2, 80:] = g[2, :, 80:] = 0  # rows that are not there
    rows = coupling(g, 3000)
    whole = encode(w, Q3_K, curve, rows, first=0)
    parts = [encode(w[at : at + SIZE], Q3_K, curve, rows, first=at) for at in range(0, len(w), SIZE)]
    assert np.array_equal(whole, np.concatenate(parts))
    with pytest.raises(ValueError, match="row 8 does not begin a group of 192"):
        encode(w[8:], Q3_K, curve, rows, first=8)


def test_threads_change_nothing() -> None:
    g = np.stack([drawn(np.random.default_rng(i), 600, 1000) for i in range(2)])
    with ThreadPoolExecutor(3) as pool:
        one, other = coupling(g.copy(), 1000), coupling(g.copy(), 1000, pool.map)
    assert np.array_equal(np.triu(one.pull), np.triu(other.pull))


def test_a_matrix_without_gradients_is_encoded_row_by_row(curve: Curvature) -> None:
    w = weights(SIZE)
    rows: Coupling = coupling(np.zeros((1, SIZE, SIZE), dtype=np.float32), 100)
    assert np.array_equal(encode(w, Q3_K, curve, rows, first=0), feedback.encode(w, Q3_K, curve))


@pytest.mark.parametrize(
    ("shape", "size"),
    [((576, 1536), 576), ((1536, 8960), 384), ((4096, 4096), 1024), ((4096, 14336), 274), ((4096, 256), 2048),
     ((8960, 1536), 0), ((1, 64), 1), ((100, 1 << 23), 1)],
)  # fmt: skip
def test_groups_are_few_and_alike_and_small_enough(shape: tuple[int, int], size: int) -> None:
    assert group_rows(*shape) == size
    assert size * shape[1] <= max(1 << 22, shape[1])
    assert step_rows(size, shape[1]) == max(64 if shape[1] > 2048 else 32, -(-size // 16))
