"""Error feedback on the grids of block types: each rounding error is made good by the columns that follow.

What is made small is the error of the matrix's outputs on its calibration inputs,

    Σ_rows (ŵ - w) H (ŵ - w)ᵀ        H = XᵀX / n, the second moments of the inputs, (n_per_row, n_per_row)

1. Columns one after the other (LDLQ, the same as GPTQ): H = A D Aᵀ with A unit upper triangular; the error of column j
   is added to the columns that follow along A[j, :]. The scales of a super-block are searched by `quant.quantize` on
   the weights as they stand when it is reached. The importance of a column in that search is D[j], what its error costs
   after all columns that follow have done their best; the plain H[j, j] also counts what they will repair.
2. Refinement (`quant.refinement`): scales, minimums and levels are chosen anew under H, part by part, all else held.

Frantar et al., GPTQ (2210.17323); Chee et al., QuIP (2307.13304). Knows arrays and one matrix at a time. Does not know
files, names, or whether the result is better on other text: callers compare.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quant.codec import dequantize, quantize, require_finite
from quant.curvature import Curvature
from quant.errors import ShapeError
from quant.grid import Grid, grid_of
from quant.products import product, row_dots
from quant.refinement import refined
from quant.types import QuantType

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]
I64Array = NDArray[np.int64]
U8Array = NDArray[np.uint8]


def row_errors(w: F32Array, blocks: U8Array, qtype: QuantType, moments: F32Array) -> F64Array:
    """(ŵ - w) H (ŵ - w)ᵀ of each encoded row, (n_rows,); `moments` (n_block, width, width) float32."""
    return energies(dequantize(blocks, qtype) - w, moments)


def energies(error: F32Array, moments: F32Array) -> F64Array:
    """e H eᵀ of each row e of `error` (n_rows, n_per_row), (n_rows,); `moments` (n_block, width, width) float32."""
    width = moments.shape[1]
    total = np.zeros(len(error))
    for block, h in enumerate(moments):
        part = _columns(error, block, width)
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

    Raises ShapeError where w and the curvature differ, NonFiniteError, UnknownTypeError for types without a grid.
    """
    grid = grid_of(qtype)
    if w.ndim != 2 or not curve.fits(w.shape[1]):
        raise ShapeError(f"the matrix has shape {w.shape}, its curvature blocks {curve.moments.shape}")
    require_finite(w)
    out = np.empty((w.shape[0], qtype.row_nbytes(w.shape[1])), dtype=np.uint8)
    ratio = qtype.type_size / qtype.block_size
    for block in range(len(curve.moments)):
        first, last = block * curve.width, (block + 1) * curve.width
        cost = curve.column_cost[first:last] if weighted else None
        part = _columns(w, block, curve.width)
        encoded = _feedback(part, grid, curve.order[block], curve.factor[block], cost)
        encoded = refined(part, encoded, grid, curve.moments[block], n_refine)
        there = out[:, int(first * ratio) : int(last * ratio)]
        there[:] = encoded.reshape(len(w), -1)[:, : there.shape[1]]
    return out


def _columns(w: F32Array, block: int, width: int) -> F32Array:
    """Columns of one block (n_rows, width); zeros behind those of a row's last block, where that is narrower."""
    part = w[:, block * width : (block + 1) * width]
    return np.ascontiguousarray(np.pad(part, ((0, 0), (0, width - part.shape[1]))), dtype=np.float32)


def _feedback(w: F32Array, grid: Grid, order: I64Array, factor: F32Array, cost: F32Array | None) -> U8Array:
    """Blocks (n_rows, n_blocks, type_size) of one diagonal block of columns, encoded in `order`."""
    from quant.kernels.feedback import round_columns

    n_rows, width = w.shape
    size = grid.qtype.block_size
    left = np.take(w, order, axis=1)
    out = np.empty((n_rows, width // size, grid.qtype.type_size), dtype=np.uint8)
    levels = np.empty((n_rows, width // size, size), dtype=np.uint8)
    for first in range(0, width, size):
        at, home = slice(first, first + size), slice(order[first], order[first] + size)
        now = np.ascontiguousarray(left[:, at])
        blocks = quantize(now, grid.qtype, importance=None if cost is None else cost[home], allow_nonfinite=True)
        scale, offset = grid.scales(blocks)
        level, error = np.empty(now.shape, dtype=np.uint8), np.empty_like(now)
        part = np.ascontiguousarray(w[:, home]), now
        round_columns(*part, scale, offset, grid.values, np.ascontiguousarray(factor[at, at]), level, error)
        out[:, home.start // size], levels[:, home.start // size] = blocks, level
        left[:, at.stop :] += product(error, factor[at], slice(at.stop, None))
    return grid.pack(out.reshape(-1, grid.qtype.type_size), levels.reshape(-1, size)).reshape(out.shape)
