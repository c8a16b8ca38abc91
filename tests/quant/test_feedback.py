"""Error feedback: never worse where it should not be, exact where exactness is known, rows on their own."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import quant
from quant.curvature import Curvature, curvature
from quant.errors import NonFiniteError, ShapeError
from quant.feedback import encode, row_errors
from quant.grid import grid_of
from quant.refinement import _groups, _Tile, refined

TYPES = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS"]


def correlated(seed: int, n_per_row: int, n_tokens: int = 4096) -> np.ndarray:
    """Mean second moments (1, n, n) of inputs that share a few directions."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(24, n_per_row)) * rng.gamma(1.0, size=n_per_row)
    x = rng.normal(size=(n_tokens, 24)) @ mix + 0.5 * rng.normal(size=(n_tokens, n_per_row))
    return ((x.T @ x) / n_tokens).astype(np.float32)[None]


def matrix(seed: int, n_rows: int, n_per_row: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_rows, n_per_row)).astype(np.float32)


def total(w: np.ndarray, blocks: np.ndarray, name: str, moments: np.ndarray) -> float:
    return float(row_errors(w, blocks, quant.quant_type(name), moments).sum())


@pytest.mark.parametrize("name", TYPES)
def test_output_error_falls_at_every_stage_and_on_other_tokens(name: str) -> None:
    w, qtype, all_tokens = matrix(1, 12, 512), quant.quant_type(name), correlated(2, 512, 8192)
    curve = curvature(correlated(2, 512))
    importance = np.ascontiguousarray(np.diagonal(curve.moments[0]))
    plain = total(w, quant.quantize(w, qtype, importance=importance), name, all_tokens)
    feedback = total(w, encode(w, qtype, curve), name, all_tokens)
    refined = total(w, encode(w, qtype, curve, n_refine=6), name, all_tokens)
    assert refined < 0.95 * feedback
    assert feedback < 0.7 * plain


@pytest.mark.parametrize("width", [64, 256, 544])
def test_the_factor_is_that_of_the_moments(width: int) -> None:
    curve = curvature(correlated(16, width))
    h, factor = curve.moments[0].astype(np.float64), curve.factor[0].astype(np.float64)
    h = h[curve.order[0]][:, curve.order[0]]
    a, d = np.triu(factor, 1) + np.eye(width), np.diagonal(factor)
    scale = np.sqrt(np.diagonal(h))
    np.testing.assert_allclose(((a * d) @ a.T) / scale / scale[:, None], h / scale / scale[:, None], atol=2e-6)


def ill(width: int) -> np.ndarray:
    """Moments of which one direction, that all columns share, and one column hold nearly all."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2 * width, width)) * np.exp(rng.normal(size=width)) + 30 * rng.normal(size=(2 * width, 1))
    x[:, 7] *= 1000
    return ((x.T @ x) / len(x)).astype(np.float32)[None]


@pytest.mark.parametrize("width", [512, 1536])
def test_what_a_column_costs_is_told_where_moments_are_far_from_even(width: int) -> None:
    curve = curvature(ill(width))
    last_first = curve.order[0][::-1]
    h = curve.moments[0][last_first][:, last_first].astype(np.float64)
    np.testing.assert_allclose(curve.column_cost[last_first], np.square(np.diagonal(np.linalg.cholesky(h))), rtol=1e-3)


@pytest.mark.parametrize(("width", "size"), [(1536, 256), (544, 32)])
def test_groups_with_the_largest_inputs_are_rounded_first(width: int, size: int) -> None:
    moments = correlated(17, width)
    mean = np.random.default_rng(18).permutation(width // size)
    moments *= np.exp(0.5 * np.add.outer(mean, mean)).repeat(size, 0).repeat(size, 1).astype(np.float32)
    groups = curvature(moments).order[0].reshape(-1, size)
    np.testing.assert_array_equal(groups, groups[:, :1] + np.arange(size))
    largest = np.diagonal(moments[0]).reshape(-1, size).mean(axis=1)
    assert (np.diff(largest[groups[:, 0] // size]) <= 0).all()


@pytest.mark.parametrize("name", ["Q4_K", "Q4_0"])
def test_a_massive_channel_at_the_end_is_made_good(name: str) -> None:
    """As in the first layers' ffn_down: what is rounded last is made good by nobody."""
    w, qtype = matrix(19, 12, 1024), quant.quant_type(name)
    moments = correlated(20, 1024)
    moments[0, 1000] *= 30
    moments[0, :, 1000] *= 30
    curve = curvature(moments)
    turned = np.ascontiguousarray(w.reshape(12, 4, 256)[:, ::-1].reshape(12, 1024))
    back = np.arange(1024).reshape(4, 256)[::-1].reshape(-1)
    errors = [
        row_errors(rows, encode(rows, qtype, each), qtype, each.moments).sum()
        for rows, each in ((w, curve), (turned, curvature(np.ascontiguousarray(moments[:, back][:, :, back]))))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)  # wherever it stands


def test_threads_share_a_factor_to_the_bit() -> None:
    moments = ill(896)
    with ThreadPoolExecutor(3) as pool:
        shared = curvature(moments, each=pool.map)
    assert np.array_equal(np.triu(shared.factor), np.triu(curvature(moments).factor))


def test_row_errors_are_the_outputs_differences() -> None:
    w, qtype = matrix(3, 5, 256), quant.quant_type("Q3_K")
    x = np.random.default_rng(4).normal(size=(300, 256)).astype(np.float32)
    blocks = quant.quantize(w, qtype)
    direct = np.square(x @ (quant.dequantize(blocks, qtype) - w).T).sum(axis=0) / 300
    got = row_errors(w, blocks, qtype, (x.T @ x / 300)[None])
    np.testing.assert_allclose(got, direct, rtol=1e-4)


def test_independent_inputs_leave_nothing_to_make_good() -> None:
    w, qtype = matrix(5, 6, 256), quant.quant_type("Q4_0")
    curve = curvature(np.eye(256, dtype=np.float32)[None], damping=0.0)
    weights = np.ones(256, dtype=np.float32)
    assert np.array_equal(encode(w, qtype, curve), _rounded(w, qtype, weights))


def _rounded(w: np.ndarray, qtype: quant.QuantType, weights: np.ndarray) -> np.ndarray:
    """The encoder's scales with every level the nearest."""
    grid = grid_of(qtype)
    blocks = quant.quantize(w, qtype, importance=weights).reshape(-1, qtype.type_size)
    scale, offset = grid.scales(blocks)
    steps = np.abs(scale[:, :, None] * grid.values + offset[:, :, None] - w.reshape(scale.shape)[:, :, None])
    return grid.pack(blocks, steps.argmin(-1).astype(np.uint8)).reshape(len(w), -1)


@pytest.mark.parametrize("n_refine", [0, 3])
def test_rows_encode_independently(n_refine: int) -> None:
    w, qtype, curve = matrix(6, 21, 512), quant.quant_type("Q4_K"), curvature(correlated(7, 512))
    whole = encode(w, qtype, curve, n_refine=n_refine)
    for start, stop in ((0, 1), (1, 9), (9, 21)):
        assert np.array_equal(encode(w[start:stop], qtype, curve, n_refine=n_refine), whole[start:stop])


def test_blocks_of_columns_stand_alone() -> None:
    w, qtype = matrix(8, 4, 512), quant.quant_type("Q5_K")
    moments = np.concatenate([correlated(9, 256), correlated(10, 256)])
    curve = curvature(moments)
    parts = [
        encode(
            np.ascontiguousarray(w[:, at : at + 256]),
            qtype,
            Curvature(*(each[b : b + 1] for each in (curve.moments, curve.order, curve.factor))),
        )
        for b, at in enumerate((0, 256))
    ]
    assert np.array_equal(encode(w, qtype, curve), np.concatenate(parts, axis=1))


def test_a_row_s_last_block_may_be_narrower() -> None:
    w, qtype = matrix(8, 4, 1280), quant.quant_type("Q4_K")
    moments = np.zeros((2, 768, 768), dtype=np.float32)
    moments[0], moments[1, :512, :512] = correlated(9, 768)[0], correlated(10, 512)[0]
    curve = curvature(moments)
    first = encode(
        w[:, :768], qtype, Curvature(*(each[:1] for each in (curve.moments, curve.order, curve.factor))), n_refine=2
    )
    parts = curve.moments[1:, :512, :512], curve.order[1:, :512], curve.factor[1:, :512, :512]
    last = Curvature(*map(np.ascontiguousarray, parts))
    blocks = encode(w, qtype, curve, n_refine=2)
    assert np.array_equal(blocks, np.concatenate([first, encode(w[:, 768:], qtype, last, n_refine=2)], axis=1))
    assert (row_errors(w, blocks, qtype, moments) > 0).all()


def as_stored(curve: Curvature) -> Curvature:
    """The same with columns rounded as they are stored."""
    h = curve.moments[0, ::-1, ::-1].astype(np.float64)
    u = np.linalg.cholesky(h)[::-1, ::-1]
    factor = np.triu(u / np.diagonal(u), 1) + np.diag(np.square(np.diagonal(u)))
    return Curvature(curve.moments, np.arange(len(h))[None], factor.astype(np.float32)[None])


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
def test_sub_blocks_are_coded_anew_where_it_pays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes that were put off by one come back, or better; levels, d and dmin alone do not mend as much."""
    w, qtype, moments = matrix(15, 8, 512), quant.quant_type(name), correlated(16, 512)
    grid, curve = grid_of(qtype), as_stored(curvature(moments))
    blocks = encode(w, qtype, curve)
    before = row_errors(w, blocks, qtype, curve.moments)
    assert grid.scale_codes is not None
    parts = blocks.reshape(-1, qtype.type_size)
    low, high = grid.scale_codes.range
    off = grid.scale_codes.put(parts, np.clip(grid.scale_codes.of(parts) + 1, low, high)).reshape(len(w), 2, -1)
    mended = refined(w, off, grid, curve.moments[0], 2).reshape(blocks.shape)
    monkeypatch.setattr("quant.refinement._factor", lambda *_: np.zeros((0, 0, 0), dtype=np.float32))
    plain = refined(w, off, grid, curve.moments[0], 2).reshape(blocks.shape)
    assert row_errors(w, mended, qtype, curve.moments).sum() < before.sum()
    assert total(w, mended, name, curve.moments) < 0.97 * total(w, plain, name, curve.moments)


@pytest.mark.parametrize("name", ["Q2_K", "Q4_K", "Q6_K", "IQ4_XS", "Q4_0", "Q5_1", "Q8_0"])
def test_d_and_dmin_are_solved_for(name: str) -> None:
    """No row's error grows, the gradient follows, and the last block's d, all else held, has no better neighbour."""
    w, qtype, moments = matrix(17, 40, 512), quant.quant_type(name), correlated(18, 512)[0]
    grid = grid_of(qtype)
    blocks = quant.quantize(w, qtype, encoder=quant.Encoder.GGML).reshape(len(w), -1, qtype.type_size)
    tile = _Tile.taken(w, blocks, grid, moments, list(_groups(grid, len(moments)))[-1])
    error = quant.dequantize(blocks.reshape(len(w), -1), qtype) - w
    gradient = (error @ moments[:, tile.columns]).astype(np.float32)
    after, rows = blocks.copy(), np.arange(len(w))
    tile.refine(rows, gradient, error, np.zeros_like(rows), whole=False)
    tile.put(after)
    np.testing.assert_allclose(error, quant.dequantize(after.reshape(len(w), -1), qtype) - w, atol=1e-6)

    def left(those: np.ndarray) -> np.ndarray:
        return row_errors(w, those.reshape(len(w), -1), qtype, moments[None])

    solved = left(after)
    assert (solved <= left(blocks) * (1 + 1e-6)).all()
    assert solved.sum() < 0.999 * left(blocks).sum()
    error = quant.dequantize(after.reshape(len(w), -1), qtype) - w
    np.testing.assert_allclose(gradient, error @ moments[:, tile.columns], atol=2e-4 * np.abs(gradient).max())
    if grid.dmin_at is None:
        d, dmin = grid.halves(after[:, -1])
        for away in (-np.inf, np.inf):
            near = after.copy()
            near[:, -1] = grid.with_halves(after[:, -1], np.nextafter(d.astype(np.float16), np.float16(away)), dmin)
            assert (left(near) >= solved * (1 - 1e-5)).all()


def test_columns_that_were_never_used_do_no_harm() -> None:
    moments = correlated(11, 256)
    moments[:, :40] = moments[:, :, :40] = 0
    w, qtype = matrix(12, 4, 256), quant.quant_type("Q4_K")
    decoded = quant.dequantize(encode(w, qtype, curvature(moments), n_refine=4), qtype)
    assert np.isfinite(decoded).all()
    assert np.abs(decoded[:, :40] - w[:, :40]).mean() < 0.5


def test_nothing_but_zeros_stays_zero() -> None:
    w, qtype = np.zeros((3, 256), dtype=np.float32), quant.quant_type("Q3_K")
    assert not quant.dequantize(encode(w, qtype, curvature(correlated(13, 256)), n_refine=2), qtype).any()


def test_a_curvature_of_another_width_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"the matrix has shape \(3, 512\), its curvature blocks \(1, 256, 256\)"):
        encode(matrix(14, 3, 512), quant.quant_type("Q4_K"), curvature(correlated(15, 256)))


def test_a_number_that_is_none_is_refused() -> None:
    w = matrix(14, 3, 512)
    w[1, 300] = np.nan
    with pytest.raises(NonFiniteError, match="row 1 column 300 is nan"):
        encode(w, quant.quant_type("Q4_K"), curvature(correlated(15, 512)))
