"""Refinement of rows that are encoded: what makes the quadratic (ŵ - w) H (ŵ - w)ᵀ less, part by part, all else held.

    d and dmin of each block     solved for, levels and codes held
    a sub-block                  the codes of its scale and minimum and its levels, together
    a level                      moved to where the row's error is least

No step makes the error larger. Knows one diagonal block of columns at a time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quant.codec import dequantize
from quant.grid import Grid
from quant.products import product, row_dots

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]
U8Array = NDArray[np.uint8]


def refined(w: F32Array, encoded: U8Array, grid: Grid, moments: F32Array, n_refine: int) -> U8Array:
    """At most `n_refine` rounds; a row takes part until none of its levels moves.

    w, moments  (n_rows, n) and (n, n) float32 of one diagonal block of columns
    encoded     (n_rows, n // block_size, type_size); so is what is returned
    """
    from quant.kernels.feedback import move_levels

    n_block, size = encoded.shape[1], grid.qtype.block_size
    out = encoded.copy()
    if not n_refine:
        return out
    active, factor = np.arange(len(w)), _sub_factors(grid, n_block, moments)
    gradient = product(dequantize(out.reshape(len(w), -1), grid.qtype) - w, moments)  # (ŵ - w) H, kept up to date
    for _ in range(n_refine):
        now = _solve_halves(out[active], grid, moments, gradient)
        now = _recode(now, grid, moments, factor, gradient)
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


def _sub_factors(grid: Grid, n_block: int, moments: F32Array) -> F32Array:
    """(n_sub, size, size) moments of each sub-block's columns, factored; empty where a type has no sub-blocks."""
    from quant.kernels.sub_blocks import factor_blocks

    n_sub = n_block * grid.scale_codes.n_sub if grid.scale_codes else 0
    size = len(moments) // n_sub if n_sub else 0
    factor = np.zeros((n_sub, size, size), dtype=np.float32)
    factor_blocks(moments, factor)
    return factor


def _recode(encoded: U8Array, grid: Grid, moments: F32Array, factor: F32Array, gradient: F32Array) -> U8Array:
    """Codes and levels of each sub-block chosen together, all others held; `gradient` follows."""
    from quant.kernels.sub_blocks import recode

    codes, lows = grid.scale_codes, grid.min_codes
    if codes is None:
        return encoded
    n_rows = len(encoded)
    flat = encoded.reshape(-1, grid.qtype.type_size)
    code = codes.of(flat).reshape(n_rows, -1)
    low = np.zeros_like(code) if lows is None else lows.of(flat).reshape(n_rows, -1)
    level = grid.unpack(flat).reshape(n_rows, -1)
    d, dmin = (half.reshape(n_rows, -1) for half in grid.halves(flat))
    bounds = np.array([*codes.range, *(lows.range if lows else (0, 0))])
    recode(level, code, low, d, dmin, grid.values, bounds, factor, gradient, moments)
    flat = codes.put(flat, code.reshape(len(flat), -1))
    flat = flat if lows is None else lows.put(flat, low.reshape(len(flat), -1))
    return grid.pack(flat, level.reshape(len(flat), -1)).reshape(encoded.shape)


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
