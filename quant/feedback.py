"""Error feedback on the grids of block types: each rounding error is made good by the columns that follow.

What is made small is the error of the matrix's outputs on its calibration inputs,

    Σ_rows (ŵ - w) H (ŵ - w)ᵀ        H = XᵀX / n, the second moments of the inputs, (n_per_row, n_per_row)

1. Columns in order (GPTQ, LDLQ): H⁻¹ = UᵀU with U upper triangular; the error e of column j, divided by U[j, j], is
   subtracted from the columns behind it along U[j, :]. The scales of a super-block are searched by `quant.quantize` on
   the weights as they stand when it is reached. The importance of a column in that search is 1 / U[j, j]², what its
   error costs after all columns behind it have done their best; the plain H[j, j] also counts what they will repair.
2. Refinement: d and dmin of every block are solved for anew under H with the levels held, then each level moves to
   where the whole quadratic is least with all others held; repeated while it pays. No step makes the error larger.

Frantar et al., GPTQ (2210.17323); Chee et al., QuIP (2307.13304). Knows arrays and one matrix at a time. Does not know
files, names, or whether the result is better on other text: callers compare.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.codec import dequantize, quantize
from quant.errors import ShapeError
from quant.grid import Grid, grid_of
from quant.types import QuantType

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]
U8Array = NDArray[np.uint8]

DAMPING = 0.01  # of the mean of H's diagonal, added to the diagonal
MAX_SUPER_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Curvature:
    """What the encoder needs to know of one expert's inputs; one entry for each diagonal block of columns.

    moments  (n_block, width, width) float32, H damped
    factor   (n_block, width, width) float32, upper triangular U with H⁻¹ = UᵀU
    """

    moments: F32Array
    factor: F32Array

    @property
    def width(self) -> int:
        return int(self.moments.shape[1])

    @property
    def n_per_row(self) -> int:
        return int(self.moments.shape[0] * self.moments.shape[1])

    @property
    def column_cost(self) -> F32Array:
        """(n_per_row,) 1 / U[j, j]²: the cost of a unit error in a column after the columns behind it made it good."""
        diagonal = np.diagonal(self.factor, axis1=1, axis2=2).reshape(-1)
        cost: F32Array = 1.0 / np.square(diagonal)
        return cost


def curvature(moments: NDArray[np.floating], *, damping: float = DAMPING) -> Curvature:
    """Factor the mean second moments (n_block, width, width) of one expert. Columns never used are given no weight."""
    damped = np.array(moments, dtype=np.float64)
    factors = np.empty_like(damped)
    for block, h in enumerate(damped):
        level = damping * max(float(np.mean(np.diagonal(h))), 1e-20)
        h[np.diag_indices_from(h)] += level
        inverse = np.linalg.inv(h)
        factors[block] = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return Curvature(damped.astype(np.float32), factors.astype(np.float32))


def output_error(w: F32Array, blocks: U8Array, qtype: QuantType, moments: NDArray[np.floating]) -> float:
    """Σ_rows (ŵ - w) H (ŵ - w)ᵀ of encoded rows; `moments` (n_block, width, width)."""
    error = dequantize(blocks, qtype) - w
    width = moments.shape[1]
    return float(
        sum(
            np.einsum("ij,ij->", part @ h, part, dtype=np.float64)
            for h, part in ((h, error[:, b * width : (b + 1) * width]) for b, h in enumerate(moments))
        )
    )


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
        round_columns(now, scale, offset, grid.values, np.ascontiguousarray(factor[at, at]), level, error)
        out[:, index] = grid.pack(blocks, level)
        left[:, at.stop :] -= error @ factor[at, at.stop :]
    return out


def _refine(w: F32Array, encoded: U8Array, grid: Grid, moments: F32Array, n_refine: int) -> U8Array:
    """Rounds of solving d and dmin and moving levels, each row kept as long as its error falls."""
    from quant.kernels.feedback import move_levels

    n_rows, n_block = encoded.shape[:2]
    size = grid.qtype.block_size
    for _ in range(n_refine):
        encoded = _solve_halves(w, encoded, grid, moments)
        flat = encoded.reshape(n_rows * n_block, -1)
        scale, offset = (part.reshape(n_rows, -1) for part in grid.scales(flat))
        level = grid.unpack(flat).reshape(n_rows, n_block * size)
        error = scale * grid.values[level] + offset - w
        gradient = error @ moments
        moved = move_levels(level, scale, offset, grid.values, w, gradient, moments)
        encoded = grid.pack(flat, level.reshape(n_rows * n_block, size)).reshape(encoded.shape)
        if not moved:
            break
    return encoded


def _solve_halves(w: F32Array, encoded: U8Array, grid: Grid, moments: F32Array) -> U8Array:
    """Per block, the d and dmin that make the row's error least with all levels, codes and other blocks held."""
    n_rows, n_block = encoded.shape[:2]
    size = grid.qtype.block_size
    out = encoded.copy()
    value = dequantize(out.reshape(n_rows, -1), grid.qtype)
    gradient = (value - w) @ moments
    for index in range(n_block):
        at = slice(index * size, (index + 1) * size)
        blocks = out[:, index]
        ones, zeros = np.ones(n_rows, dtype=np.float32), np.zeros(n_rows, dtype=np.float32)
        u = dequantize(grid.with_halves(blocks, ones, zeros), grid.qtype)  # value = d u + dmin v
        v = dequantize(grid.with_halves(blocks, zeros, ones), grid.qtype)
        hu, hv = u @ moments[at, at], v @ moments[at, at]
        step = _two_by_two(u, v, hu, hv, gradient[:, at], has_min=grid.dmin_at is not None)
        d, dmin = grid.halves(blocks)
        tried = grid.with_halves(blocks, d + step[0], dmin + step[1])
        new = dequantize(tried, grid.qtype)
        change = new - value[:, at]
        gain = 2 * np.einsum("ij,ij->i", change, gradient[:, at]) + np.einsum(
            "ij,ij->i", change, change @ moments[at, at]
        )
        better = gain < 0
        out[better, index] = tried[better]
        change[~better] = 0
        value[:, at] += change
        gradient += change @ moments[at]
    return out


def _two_by_two(
    u: F32Array, v: F32Array, hu: F32Array, hv: F32Array, gradient: F32Array, *, has_min: bool
) -> tuple[F32Array, F32Array]:
    """Steps of d and dmin (n_rows,) that solve each row's normal equations."""
    uu = np.einsum("ij,ij->i", u, hu, dtype=np.float64)
    ug = np.einsum("ij,ij->i", u, gradient, dtype=np.float64)
    if not has_min:
        return (-ug / np.maximum(uu, 1e-30)).astype(np.float32), np.zeros(len(u), dtype=np.float32)
    vv = np.einsum("ij,ij->i", v, hv, dtype=np.float64)
    uv = np.einsum("ij,ij->i", u, hv, dtype=np.float64)
    vg = np.einsum("ij,ij->i", v, gradient, dtype=np.float64)
    det = uu * vv - uv * uv
    safe = det > 1e-9 * uu * vv
    det = np.where(safe, det, 1.0)
    step_d = np.where(safe, (-ug * vv + vg * uv) / det, 0.0)
    step_m = np.where(safe, (-vg * uu + ug * uv) / det, 0.0)
    return step_d.astype(np.float32), step_m.astype(np.float32)
