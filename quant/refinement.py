"""Refinement of rows that are encoded: what makes the quadratic (ŵ - w) H (ŵ - w)ᵀ less, part by part, all else held.

    a level                      moved to where the row's error is least
    a sub-block                  the codes of its scale and minimum and its levels, together
    d and dmin of each block     solved for, levels and codes held

No step makes the error larger. A round goes through the columns a few hundred at a time: what is used again and again
of the moments stays in a near cache, and what changed in all other columns is learned of at once, in one product.
Numbers are taken out of their blocks once, and put back when no round follows.

Knows one diagonal block of columns at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.codec import dequantize
from quant.grid import Grid
from quant.products import product

F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]
I64Array = NDArray[np.int64]
U8Array = NDArray[np.uint8]

TILE = 256  # columns of a tile: a super-block, or as many small blocks


def refined(w: F32Array, encoded: U8Array, grid: Grid, moments: F32Array, n_refine: int) -> U8Array:
    """d and dmin of all blocks, then at most `n_refine` rounds; a row takes part until none of its levels moves.

    w, moments  (n_rows, n) and (n, n) float32 of one diagonal block of columns
    encoded     (n_rows, n // block_size, type_size); so is what is returned
    """
    out = encoded.copy()
    if not n_refine:
        return out
    tiles = [_Tile.taken(w, encoded, grid, moments, blocks) for blocks in _groups(grid, len(moments))]
    active, error = np.arange(len(w)), dequantize(encoded.reshape(len(w), -1), grid.qtype) - w
    for turn in range(n_refine + 1):
        moved = np.zeros(len(active), dtype=np.int64)
        for tile in tiles:
            gradient = product(error, moments, tile.columns)  # (ŵ - w) H
            tile.refine(active, gradient, error, moved, whole=turn > 0)
        if turn:
            active, error = active[moved > 0], error[moved > 0]
        if not len(active):
            break
    for tile in tiles:
        tile.put(out)
    return out


def _groups(grid: Grid, n: int) -> Iterator[slice]:
    """Whole blocks of n columns, those of a tile together."""
    n_block, step = n // grid.qtype.block_size, max(1, TILE // grid.qtype.block_size)
    return (slice(first, min(first + step, n_block)) for first in range(0, n_block, step))


@dataclass(frozen=True, slots=True)
class _Tile:
    """Some blocks of all rows, and what they hold: value = d code values[level] - dmin low. A sub-block that has no
    code of its own has 1, and -1 as the low.

    w            (n_rows, n) that they stand for
    level        (n_rows, n)
    code, low    (n_rows, n_sub)
    d, dmin      (n_rows, n_block)
    moments      (n, n) of its columns
    sums         (n_sub, n) of each sub-block's lines of them
    factor       (n_sub, size, size) moments of each sub-block's columns, factored; empty where it has no codes
    """

    grid: Grid
    blocks: slice
    w: F32Array
    level: U8Array
    code: I32Array
    low: I32Array
    d: F32Array
    dmin: F32Array
    moments: F32Array
    sums: F32Array
    factor: F32Array

    @classmethod
    def taken(cls, w: F32Array, encoded: U8Array, grid: Grid, moments: F32Array, blocks: slice) -> _Tile:
        """Those `blocks` of rows `encoded` of `refined`."""
        columns = _columns(grid, blocks)
        flat = encoded[:, blocks].reshape(-1, grid.qtype.type_size)
        shape = len(w), -1
        code, low = (part.reshape(shape) for part in _codes(grid, flat))
        d, dmin = (half.reshape(shape) for half in grid.halves(flat))
        h = np.ascontiguousarray(moments[columns, columns])
        sums = h.reshape(code.shape[1], -1, len(h)).sum(axis=1)
        own, level = np.ascontiguousarray(w[:, columns]), grid.unpack(flat).reshape(shape)
        return cls(grid, blocks, own, level, code, low, d, dmin, h, sums, _factor(grid, h, code.shape[1]))

    @property
    def columns(self) -> slice:
        return _columns(self.grid, self.blocks)

    def refine(self, active: I64Array, gradient: F32Array, error: F32Array, moved: I64Array, *, whole: bool) -> None:
        """Each part in turn, of rows `active`; without `whole`, d and dmin alone.

        gradient  (n_active, n) of its columns follows; so does error (n_active, …), ŵ - w of all columns
        moved     (n_active,) counts levels
        """
        from quant.kernels.refinement import refine

        codes, lows = self.grid.scale_codes, self.grid.min_codes
        bounds = np.array([*(codes.range if codes else (0, 0)), *(lows.range if lows else (0, 0))])
        numbers = self.level, self.code, self.low, self.d, self.dmin
        rule = self.grid.values, bounds, self.grid.dmin_at is not None
        known = self.moments, self.sums, self.factor
        refine(active, self.w, numbers, rule, known, gradient, error, self.columns.start, moved, whole)

    def put(self, out: U8Array) -> None:
        """What it holds now into its blocks of `out`, as `encoded` of `refined`."""
        grid, there = self.grid, out[:, self.blocks]
        flat = there.reshape(-1, grid.qtype.type_size)
        for codes, numbers in ((grid.scale_codes, self.code), (grid.min_codes, self.low)):
            flat = flat if codes is None else codes.put(flat, numbers.reshape(len(flat), -1))
        flat = grid.pack(flat, self.level.reshape(len(flat), -1))
        there[:] = grid.with_halves(flat, self.d.reshape(-1), self.dmin.reshape(-1)).reshape(there.shape)


def _columns(grid: Grid, blocks: slice) -> slice:
    return slice(blocks.start * grid.qtype.block_size, blocks.stop * grid.qtype.block_size)


def _codes(grid: Grid, flat: U8Array) -> tuple[I32Array, I32Array]:
    """Those of scales and of minimums of blocks (n, type_size), (n, n_sub) each."""
    if grid.scale_codes is None:
        code = np.ones((len(flat), 1), dtype=np.int32)
        return code, -code if grid.dmin_at is not None else 0 * code
    code = grid.scale_codes.of(flat)
    return code, np.zeros_like(code) if grid.min_codes is None else grid.min_codes.of(flat)


def _factor(grid: Grid, moments: F32Array, n_sub: int) -> F32Array:
    from quant.kernels.sub_blocks import factor_blocks

    width = len(moments) // n_sub
    factor = np.zeros((n_sub if grid.scale_codes else 0, width, width), dtype=np.float32)
    factor_blocks(moments, factor)
    return factor
