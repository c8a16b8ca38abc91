"""The product of matrices: against NumPy in float64, and each line alone against the same among others, bit for bit."""

import numpy as np
import pytest

from quant.kernels.products import add_product
from quant.products import product

SHAPES = [(1, 1, 1), (2, 3, 5), (4, 4, 64), (5, 256, 512), (7, 257, 513), (13, 700, 1100), (3, 1024, 30)]


def matrices(n_rows: int, m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([n_rows, m, n])
    return rng.standard_normal((n_rows, m)).astype(np.float32), rng.standard_normal((m, n)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_numpy_s(shape: tuple[int, int, int]) -> None:
    a, b = matrices(*shape)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert np.allclose(product(a, b), exact, rtol=0, atol=1e-6 * shape[1])
    assert np.allclose(product(a.astype(np.float64), b.astype(np.float64)), exact, rtol=0, atol=1e-14 * shape[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_line_does_not_depend_on_what_stands_beside_it(shape: tuple[int, int, int]) -> None:
    a, b = matrices(*shape)
    whole = product(a, b)
    for r in range(len(a)):
        assert np.array_equal(product(a[r : r + 1], b)[0], whole[r])
        assert np.array_equal(product(a[r:], b), whole[r:])


@pytest.mark.parametrize("columns", [slice(0, 3), slice(5, 518), slice(1000, None)])
def test_some_columns_are_those_of_all(columns: slice) -> None:
    a, b = matrices(6, 300, 1100)
    assert np.array_equal(product(a, b, columns), product(a, np.ascontiguousarray(b[:, columns])))
    assert np.array_equal(product(a, b, columns), product(a, b)[:, columns])


def test_nothing_but_the_lines_and_columns_asked_for_is_added_to() -> None:
    a, b = matrices(5, 260, 600)
    out = np.ones((9, 700), dtype=np.float32)
    add_product(a, b, 50, out, 2, 540)
    wanted = np.ones((9, 700))
    wanted[2:7, :540] += a.astype(np.float64) @ b[:, 50:590]
    assert np.allclose(out, wanted, atol=1e-3)
    assert (out[:2] == 1).all() and (out[7:] == 1).all() and (out[:, 540:] == 1).all()


def test_no_columns_and_no_terms_give_zeros() -> None:
    assert product(np.ones((3, 0), np.float32), np.ones((0, 4), np.float32)).tolist() == [[0.0] * 4] * 3
    assert product(np.ones((3, 2), np.float32), np.ones((2, 0), np.float32)).shape == (3, 0)
