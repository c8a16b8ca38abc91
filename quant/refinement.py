"""Refinement of rows that are encoded: what makes the quadratic (ŵ - w) H (ŵ - w)ᵀ less, part by part, all else held.

    a level                      moved to where the row's error is least
    a sub-block                  the codes of its scale and minimum and its levels, together
    d and dmin of each block     solved for, levels and codes held

No step makes the error larger. A round goes through the columns a few hundred at a time: what is used again and again
of the moments stays in a near cache, and what changed in all other columns is learned of at once, in one product.

Knows one diagonal block of columns at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.codec import dequantize
from quant.grid import Grid
from quant.products import product

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]
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
    tiles, active = _tiles(grid, moments), np.arange(len(w))
    error = _values(out, grid) - w
    for turn in range(n_refine + 1):
        moved = np.zeros(len(active), dtype=np.int64)
        for tile in tiles:
            before = out[active, tile.blocks]
            gradient = product(error, moments, tile.columns)  # (ŵ - w) H
            now = tile.refined(before, gradient, moved) if turn else tile.solve_halves(before, gradient)
            out[active, tile.blocks] = now
            error[:, tile.columns] = _values(now, grid) - w[active, tile.columns]
        if turn:
            active, error = active[moved > 0], error[moved > 0]
        if not len(active):
            break
    return out


def _tiles(grid: Grid, moments: F32Array) -> list[_Tile]:
    """Columns in groups of whole blocks."""
    from quant.kernels.sub_blocks import factor_blocks

    size, n = grid.qtype.block_size, len(moments)
    step = max(1, TILE // size)
    tiles = []
    for first in range(0, n // size, step):
        blocks = slice(first, min(first + step, n // size))
        columns = slice(blocks.start * size, blocks.stop * size)
        h = np.ascontiguousarray(moments[columns, columns])
        n_sub = (blocks.stop - blocks.start) * grid.scale_codes.n_sub if grid.scale_codes else 0
        width = len(h) // n_sub if n_sub else 0
        factor = np.zeros((n_sub, width, width), dtype=np.float32)
        factor_blocks(h, factor)
        tiles.append(_Tile(grid, blocks, columns, h, factor))
    return tiles


def _values(encoded: U8Array, grid: Grid) -> F32Array:
    return dequantize(encoded.reshape(len(encoded), -1), grid.qtype)


@dataclass(slots=True)
class _Tile:
    """Some blocks of all rows.

    moments  (n, n) of its columns
    factor   (n_sub, size, size) moments of each sub-block's columns, factored; empty for types without sub-blocks
    """

    grid: Grid
    blocks: slice
    columns: slice
    moments: F32Array
    factor: F32Array

    def refined(self, encoded: U8Array, gradient: F32Array, moved: I64Array) -> U8Array:
        """Each part in turn; `gradient` (n_rows, n) of its columns follows, `moved` (n_rows,) counts levels."""
        now = self._move_levels(encoded, gradient, moved)
        if len(self.factor):
            now = self._recode(now, gradient)
        return self.solve_halves(now, gradient)

    def solve_halves(self, encoded: U8Array, gradient: F32Array) -> U8Array:
        """Per block, the d and dmin that make the row's error least with all levels, codes and other blocks held."""
        from quant.kernels.block_scales import solve_block_scales

        grid, flat = self.grid, encoded.reshape(-1, self.grid.qtype.type_size)
        has_min = grid.dmin_at is not None
        ones, zeros = np.ones(len(flat), dtype=np.float32), np.zeros(len(flat), dtype=np.float32)
        u = _values(grid.with_halves(flat, ones, zeros).reshape(encoded.shape), grid)  # a value is d u + dmin v
        v = _values(grid.with_halves(flat, zeros, ones).reshape(encoded.shape), grid) if has_min else u
        d, dmin = (half.reshape(encoded.shape[:2]) for half in grid.halves(flat))
        solve_block_scales(u, v, d, dmin, has_min, self.moments, gradient)
        return grid.with_halves(flat, d.reshape(-1), dmin.reshape(-1)).reshape(encoded.shape)

    def _recode(self, encoded: U8Array, gradient: F32Array) -> U8Array:
        """Codes and levels of each sub-block chosen together, all others held."""
        from quant.kernels.sub_blocks import recode

        codes, lows = self.grid.scale_codes, self.grid.min_codes
        assert codes is not None
        n_rows = len(encoded)
        flat = encoded.reshape(-1, self.grid.qtype.type_size)
        code = codes.of(flat).reshape(n_rows, -1)
        low = np.zeros_like(code) if lows is None else lows.of(flat).reshape(n_rows, -1)
        level = self.grid.unpack(flat).reshape(n_rows, -1)
        d, dmin = (half.reshape(n_rows, -1) for half in self.grid.halves(flat))
        bounds = np.array([*codes.range, *(lows.range if lows else (0, 0))])
        recode(level, code, low, d, dmin, self.grid.values, bounds, self.factor, gradient, self.moments)
        flat = codes.put(flat, code.reshape(len(flat), -1))
        flat = flat if lows is None else lows.put(flat, low.reshape(len(flat), -1))
        return self.grid.pack(flat, level.reshape(len(flat), -1)).reshape(encoded.shape)

    def _move_levels(self, encoded: U8Array, gradient: F32Array, moved: I64Array) -> U8Array:
        from quant.kernels.feedback import move_levels

        n_rows, flat = len(encoded), encoded.reshape(-1, self.grid.qtype.type_size)
        scale, offset = (part.reshape(n_rows, -1) for part in self.grid.scales(flat))
        level = self.grid.unpack(flat).reshape(n_rows, -1)
        move_levels(level, scale, offset, self.grid.values, gradient, self.moments, moved)
        return self.grid.pack(flat, level.reshape(len(flat), -1)).reshape(encoded.shape)
