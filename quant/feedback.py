"""Error feedback on the grids of block types: each rounding error is made good by the columns that follow.

What is made small is the error of the matrix's outputs on its calibration inputs,

    Σ_rows (ŵ - w) H (ŵ - w)ᵀ        H = XᵀX / n, the second moments of the inputs, (n_per_row, n_per_row)

1. Columns in order (LDLQ, the same as GPTQ): H = A D Aᵀ with A unit upper triangular; the error of column j is added to
   the columns behind it along A[j, :]. The scales of a super-block are searched by `quant.quantize` on the weights as
   they stand when it is reached. The importance of a column in that search is D[j], what its error costs after all
   columns behind it have done their best; the plain H[j, j] also counts what they will repair.
2. Refinement: d and dmin of every block are solved for anew under H with the levels held, then each level moves to
   where the whole quadratic is least with all others held; repeated while it pays. No step makes the error larger.

Frantar et al., GPTQ (2210.17323); Chee et al., QuIP (2307.13304). Knows arrays and one matrix at a time. Does not know
files, names, or whether the result is better on other text: callers compare.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quant.codec import dequantize, quantize
from quant.curvature import Curvature
from quant.errors import ShapeError
from quant.grid import Grid, grid_of
from quant.products import product, row_dots
from quant.types import QuantType

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]
U8Array = NDArray[np.uint8]


def row_errors(w: F32Array, blocks: U8Array, qtype: QuantType, moments: F32Array) -> F64Array:
    """(ŵ - w) H (ŵ - w)ᵀ of each encoded row, (n_rows,); `moments` (n_block, width, width) float32."""
    return energies(dequantize(blocks, qtype) - w, moments)


def energies(error: F32Array, moments: F32Array) -> F64Array:
    """e H eᵀ of each row e of `error` (n_rows, n_per_row), (n_rows,); `moments` (n_block, width, width) float32."""
    width = moments.shape[1]
    total = np.zeros(len(error))
    for block, h in enumerate(moments):
        part = np.ascontiguousarray(error[:, block * width : (block + 1) * width])
        total += row_dots(part, product(part, h))
    return total


def encode(
    w: F32Array,
    qtype: QuantType,
    curve: Curvature,
    *,
    weighted: bool = True,
    n_refine: int = 0,
) -> U8Array:
    """Encode one matrix with error feedback.

    w         (n_rows, n_per_row) float32
    weighted  search scales with `curve.column_cost` as importance, not without importance
    n_refine  most rounds of refinement
    returns   (n_rows, row_nbytes) uint8, as `quant.quantize`

    Raises ShapeError where w and the curvature differ, UnknownTypeError for types without a grid.
    """
    grid = grid_of(qtype)
    if w.ndim != 2 or w.shape[1] != curve.n_per_row:
        raise ShapeError(f"the matrix has shape {w.shape}, its curvature {curve.n_per_row} columns")
    out = np.empty((w.shape[0], qtype.row_nbytes(w.shape[1])), dtype=np.uint8)
    ratio = qtype.type_size / qtype.block_size
    for block in range(len(curve.moments)):
        first, last = block * curve.width, (block + 1) * curve.width
        cost = curve.column_cost[first:last] if weighted else None
        part = np.ascontiguousarray(w[:, first:last], dtype=np.float32)
        encoded = _feedback(part, grid, curve.factor[block], cost)
        encoded = _refine(part, encoded, grid, curve.moments[block], n_refine)
        out[:, int(first * ratio) : int(last * ratio)] = encoded.reshape(len(w), -1)
    return out


def _feedback(w: F32Array, grid: Grid, factor: F32Array, cost: F32Array | None) -> U8Array:
    """Blocks (n_rows, n_blocks, type_size) of one diagonal block of columns."""
    from quant.kernels.feedback import round_columns

    n_rows, width = w.shape
    size = grid.qtype.block_size
    left = w.copy()
    out = np.empty((n_rows, width // size, grid.qtype.type_size), dtype=np.uint8)
    for index in range(width // size):
        at = slice(index * size, (index + 1) * size)
        now = np.ascontiguousarray(left[:, at])
        blocks = quantize(now, grid.qtype, importance=None if cost is None else cost[at])
        scale, offset = grid.scales(blocks)
        level, error = np.empty(now.shape, dtype=np.uint8), np.empty_like(now)
        part = np.ascontiguousarray(w[:, at]), now
        round_columns(*part, scale, offset, grid.values, np.ascontiguousarray(factor[at, at]), level, error)
        out[:, index] = grid.pack(blocks, level)
        left[:, at.stop :] += product(error, factor[at, at.stop :])
    return out


def _refine(w: F32Array, encoded: U8Array, grid: Grid, moments: F32Array, n_refine: int) -> U8Array:
    """Rounds of solving d and dmin and moving levels; a row takes part until none of its levels moves."""
    from quant.kernels.feedback import move_levels

    n_block, size = encoded.shape[1], grid.qtype.block_size
    out = encoded.copy()
    if not n_refine:
        return out
    active = np.arange(len(w))
    gradient = product(dequantize(out.reshape(len(w), -1), grid.qtype) - w, moments)  # (ŵ - w) H, kept up to date
    for _ in range(n_refine):
        now = _solve_halves(out[active], grid, moments, gradient)
        flat = now.reshape(len(active) * n_block, -1)
        scale, offset = (part.reshape(len(active), -1) for part in grid.scales(flat))
        level = grid.unpack(flat).reshape(len(active), n_block * size)
        moved = np.zeros(len(active), dtype=np.int64)
        move_levels(level, scale, offset, grid.values, gradient, moments, moved)
        out[active] = grid.pack(flat, level.reshape(len(active) * n_block, size)).reshape(now.shape)
        active, gradient = active[moved > 0], gradient[moved > 0]
        if not len(active):
            break
    return out


def _solve_halves(encoded: U8Array, grid: Grid, moments: F32Array, gradient: F32Array) -> U8Array:
    """Per block, the d and dmin that make the row's error least with all levels, codes and other blocks held.

    gradient  (n_rows, n_per_row) is (ŵ - w) H and follows what changes
    """
    n_rows, n_block = encoded.shape[:2]
    size = grid.qtype.block_size
    out = encoded.copy()
    ones, zeros = np.ones(n_rows, dtype=np.float32), np.zeros(n_rows, dtype=np.float32)
    for index in range(n_block):
        at = slice(index * size, (index + 1) * size)
        blocks = np.ascontiguousarray(out[:, index])
        u = dequantize(grid.with_halves(blocks, ones, zeros), grid.qtype)  # value = d u + dmin v
        v = dequantize(grid.with_halves(blocks, zeros, ones), grid.qtype)
        step = _two_by_two(u, v, gradient[:, at], moments[at, at], has_min=grid.dmin_at is not None)
        d, dmin = grid.halves(blocks)
        tried = grid.with_halves(blocks, d + step[0], dmin + step[1])
        change = dequantize(tried, grid.qtype) - dequantize(blocks, grid.qtype)
        gain = 2 * row_dots(change, gradient[:, at]) + row_dots(change, product(change, moments[at, at]))
        better = gain < 0
        out[better, index] = tried[better]
        change[~better] = 0
        gradient += product(change, moments[at])
    return out


def _two_by_two(
    u: F32Array, v: F32Array, gradient: F32Array, moments: F32Array, *, has_min: bool
) -> tuple[F32Array, F32Array]:
    """Steps of d and dmin (n_rows,) that solve each row's normal equations."""
    hu = product(u, moments)
    uu, ug = row_dots(u, hu), row_dots(u, gradient)
    if not has_min:
        return (-ug / np.maximum(uu, 1e-30)).astype(np.float32), np.zeros(len(u), dtype=np.float32)
    vv, uv, vg = row_dots(v, product(v, moments)), row_dots(v, hu), row_dots(v, gradient)
    det = uu * vv - uv * uv
    safe = det > 1e-9 * uu * vv
    det = np.where(safe, det, 1.0)
    step_d = np.where(safe, (-ug * vv + vg * uv) / det, 0.0)
    step_m = np.where(safe, (-vg * uu + ug * uv) / det, 0.0)
    return step_d.astype(np.float32), step_m.astype(np.float32)
