"""Distances between rows of weights."""

import numpy as np
import pytest

from quant.difference import joined, row_sums
from quant.errors import ShapeError


def rows(seed: int, shape: tuple[int, int] = (7, 33)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def test_sums_follow_their_definitions() -> None:
    b, c = rows(0), rows(1)
    x, y = b.astype(np.float64), c.astype(np.float64)
    got = row_sums(b, c)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(got.row_cosines, (x * y).sum(1) / norms, rtol=1e-12)
    assert got.error == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x))
    assert got.cosine == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))


def test_equal_rows_are_no_distance_apart_even_if_zero() -> None:
    b = rows(2)
    b[3] = 0
    got = row_sums(b, b)
    assert got.error == 0
    assert got.cosine == pytest.approx(1)
    assert row_sums(b[3:4], b[3:4]).cosine == 1
    np.testing.assert_allclose(got.row_cosines, 1)
    assert row_sums(b[3:4], b[:1]).error == np.inf


def test_pairs_that_are_not_finite_are_counted_and_left_out_of_every_sum() -> None:
    b, c = rows(3), rows(4)
    b[1, 7], b[5, 0] = np.inf, np.nan
    c[2, 4], c[2, 5], c[5, 0] = np.nan, np.inf, -np.inf
    fine = np.isfinite(b) & np.isfinite(c)
    x, y = (np.where(fine, each, 0).astype(np.float64) for each in (b, c))
    got = row_sums(b, c)
    assert got.n_bad.tolist() == [0, 0, 2, 0, 0, 1, 0]
    assert got.n_pair.tolist() == [33, 32, 31, 33, 33, 32, 33]
    for sums, values in ((got.base2, x * x), (got.cand2, y * y), (got.diff2, (x - y) ** 2), (got.product, x * y)):
        np.testing.assert_allclose(sums, values.sum(1), rtol=1e-12)


def test_nothing_is_known_where_no_pair_is_finite() -> None:
    b, c = rows(3), rows(3)
    c[2] = np.nan
    got, whole = row_sums(b, c), row_sums(b[2:3], c[2:3])
    assert np.isnan(got.row_cosines).tolist() == [False, False, True, False, False, False, False]
    assert np.isnan(whole.error) and np.isnan(whole.cosine)
    assert got.error == 0


def test_slabs_join_to_the_whole() -> None:
    b, c = rows(4), rows(5)
    whole, parts = row_sums(b, c), joined([row_sums(b[:3], c[:3]), row_sums(b[3:], c[3:])])
    for x, y in zip(whole, parts, strict=True):
        assert (x == y).all()


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(7, 33\) and \(6, 33\) cannot be compared"):
        row_sums(rows(6), rows(6)[:6])
