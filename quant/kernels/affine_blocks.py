"""Scales of scales: the 8 or 16 affine sub-blocks of a super-block stored as small codes times two halves.

      x̂ = (d · scale_code) · l - (dmin · min_code),   codes 0..15 (Q2_K) or 0..63 (Q4_K, Q5_K)

Knows lanes (lane = sub · n_blocks + block) and the fits of affine.py. Does not know bytes.

The fit of a sub-block alone is not what gets stored, so the search goes on with what does: d and dmin are rounded to
float16 first, codes are then tried one up and one down with the error measured on the weights, and d and dmin are
fitted again to the codes and levels found, jointly. A candidate replaces the best only when its error is smaller.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.kernels.affine import empty_fit, find_levels, invert, level_sums, search, weighted_error
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import round_to_half
from quant.kernels.tile import BLOCK, SLAB, TILE, block_importance, load, load_importance
from quant.kernels.units import TINY, UnitSearch, best_unit, empty_unit_search, spread_over_lanes

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]

# Writes the bytes of a slab of tiles, each of n_blocks blocks side by side; out (blocks, type_size) may end earlier.
# halves (tiles, 2, n_blocks)         d, dmin, values that round_to_half returned
# codes  (tiles, 2, n_sub, n_blocks)  codes of scales, of minima
# levels (tiles, n, n_sub, n_blocks)
Pack = Callable[[F32Array, U8Array, U8Array, U8Array], None]

_ZERO = np.float32(0)
_SINGULAR = np.float32(1e-5)
_INFINITY = np.float32(np.inf)


class AffinePlan(NamedTuple):
    """How wide to search.

    nmax                highest level
    top                 highest code of scales and minima
    steps               inverse scales to try a sub-block: (nmax + step) / range
    n_refine            times the best of them is rounded and fitted again
    spread, n_tries     divisors of the largest scale to try a block: top ± spread
    n_rounds            times d and dmin are fitted again, neighbouring codes tried after each
    """

    nmax: np.float32
    top: np.float32
    steps: F32Array
    n_refine: int
    spread: np.float32
    n_tries: int
    n_rounds: int


class AffineBlocks(NamedTuple):
    """Stored scales of a tile: best so far, the candidate, and scratch. Per block (n_blocks,), per lane (lanes,)."""

    d: F32Array
    dmin: F32Array
    error: F32Array
    scale_code: F32Array
    min_code: F32Array
    try_d: F32Array
    try_dmin: F32Array
    try_scale_code: F32Array
    try_min_code: F32Array
    next_scale_code: F32Array
    next_min_code: F32Array
    lane_d: F32Array
    lane_dmin: F32Array
    lane_error: F32Array
    lane_best: F32Array
    scale: F32Array
    low: F32Array
    units: UnitSearch


def empty_blocks(lanes: int, n_blocks: int) -> AffineBlocks:
    per_block = {"d", "dmin", "error", "try_d", "try_dmin"}
    arrays = [
        np.empty(n_blocks if name in per_block else lanes, dtype=np.float32) for name in AffineBlocks._fields[:-1]
    ]
    return AffineBlocks._make([*arrays, empty_unit_search(n_blocks)])


@inner
def _codes(value, lane_d, top, code):
    for i in range(value.shape[0]):
        code[i] = min(max(np.rint(value[i] / max(lane_d[i], TINY)), _ZERO), top)


@inner
def _first_guess(x, w, nmax, top, spread, n_tries, fit, blocks):
    """d and dmin from the fits: first the scales, then the minima that suit the rounded scales."""
    invert(fit.scale, fit.low, fit.inverse, fit.offset)
    level_sums(x, w, fit.inverse, fit.offset, nmax, fit.sum_l, fit.sum_l2, fit.sum_xl)
    sum_w, sum_x, sum_l, sum_l2 = fit.sum_w, fit.sum_x, fit.sum_l, fit.sum_l2
    above, below, minimum, code, lane_d = (
        blocks.lane_error,
        blocks.lane_best,
        blocks.low,
        blocks.try_scale_code,
        blocks.lane_d,
    )
    low, largest_low, base = fit.low, fit.largest_low, fit.base
    for i in range(above.shape[0]):
        # a minimum that is free to move makes up for much of a wrong scale; one at 0 can only grow
        above[i] = sum_l2[i] - sum_l[i] * sum_l[i] / sum_w[i]
        below[i] = above[i] if low[i] < largest_low[i] else sum_l2[i]
    best_unit(fit.scale, above, below, _ZERO, top, top, spread, n_tries, blocks.units, blocks.try_d)
    spread_over_lanes(blocks.try_d, lane_d)
    _codes(fit.scale, lane_d, top, code)
    for i in range(minimum.shape[0]):
        minimum[i] = max((lane_d[i] * code[i] * sum_l[i] - sum_x[i]) / sum_w[i] - base[i], _ZERO)
    best_unit(minimum, sum_w, sum_w, _ZERO, top, top, spread, n_tries, blocks.units, blocks.try_dmin)
    spread_over_lanes(blocks.try_dmin, blocks.lane_dmin)
    _codes(minimum, blocks.lane_dmin, top, blocks.try_min_code)


@inner
def _try_move(x, w, nmax, top, move, move_min, base, inverse, blocks):
    """Move both codes of every lane by one step; lanes with a smaller error remember it."""
    code, min_code, scale, low = blocks.try_scale_code, blocks.try_min_code, blocks.scale, blocks.low
    lane_d, lane_dmin = blocks.lane_d, blocks.lane_dmin
    for i in range(scale.shape[0]):
        scale[i] = lane_d[i] * min(max(code[i] + move, _ZERO), top)
        low[i] = -lane_dmin[i] * min(max(min_code[i] + move_min, _ZERO), top) - base[i]
    error, best, best_code, best_min_code = (
        blocks.lane_error,
        blocks.lane_best,
        blocks.next_scale_code,
        blocks.next_min_code,
    )
    weighted_error(x, w, scale, low, nmax, inverse, error)
    for i in range(scale.shape[0]):
        new_code, new_min_code = min(max(code[i] + move, _ZERO), top), min(max(min_code[i] + move_min, _ZERO), top)
        old_code, old_min_code, new, old = best_code[i], best_min_code[i], error[i], best[i]
        better = new < old
        best_code[i] = new_code if better else old_code
        best_min_code[i] = new_min_code if better else old_min_code
        best[i] = new if better else old


@inner
def _try_neighbours(x, w, nmax, top, reach, fit, blocks):
    """Codes of every lane moved to the best of their neighbours; the block kept when its error is the smallest yet."""
    spread_over_lanes(blocks.try_d, blocks.lane_d)
    spread_over_lanes(blocks.try_dmin, blocks.lane_dmin)
    blocks.lane_best[:] = _INFINITY
    for move in range(-reach, reach + 1):
        for move_min in range(-reach, reach + 1):
            _try_move(x, w, nmax, top, np.float32(move), np.float32(move_min), fit.base, fit.inverse, blocks)
    code, min_code, best_code, best_min_code = (
        blocks.try_scale_code,
        blocks.try_min_code,
        blocks.next_scale_code,
        blocks.next_min_code,
    )
    for i in range(code.shape[0]):
        code[i] = best_code[i]
        min_code[i] = best_min_code[i]
    _keep_better(blocks)


@inner
def _keep_better(blocks):
    """The candidate replaces the best of its block where its error is smaller."""
    n_blocks = blocks.d.shape[0]
    lane_best, error = blocks.lane_best, blocks.error
    code, min_code, try_code, try_min_code = (
        blocks.scale_code,
        blocks.min_code,
        blocks.try_scale_code,
        blocks.try_min_code,
    )
    for b in range(n_blocks):
        total = _ZERO
        for lane in range(b, lane_best.shape[0], n_blocks):
            total += lane_best[lane]
        if total < error[b]:
            error[b] = total
            blocks.d[b] = blocks.try_d[b]
            blocks.dmin[b] = blocks.try_dmin[b]
            for lane in range(b, lane_best.shape[0], n_blocks):
                code[lane] = try_code[lane]
                min_code[lane] = try_min_code[lane]


@inner
def _stored_fit(d, dmin, code, min_code, base, blocks):
    """blocks.scale and blocks.low as they will be decoded from halves and codes."""
    spread_over_lanes(d, blocks.lane_d)
    spread_over_lanes(dmin, blocks.lane_dmin)
    scale, low, lane_d, lane_dmin = blocks.scale, blocks.low, blocks.lane_d, blocks.lane_dmin
    for i in range(scale.shape[0]):
        scale[i] = lane_d[i] * code[i]
        low[i] = -lane_dmin[i] * min_code[i] - base[i]


@inner
def _refit(x, w, nmax, fit, blocks):
    """d and dmin that suit the candidate's codes and levels best: two normal equations a block, rounded to halves."""
    code, min_code, base = blocks.try_scale_code, blocks.try_min_code, fit.base
    sum_w, sum_x, sum_l, sum_l2, sum_xl = fit.sum_w, fit.sum_x, fit.sum_l, fit.sum_l2, fit.sum_xl
    try_d, try_dmin = blocks.try_d, blocks.try_dmin
    _stored_fit(try_d, try_dmin, code, min_code, base, blocks)
    invert(blocks.scale, blocks.low, fit.inverse, fit.offset)
    level_sums(x, w, fit.inverse, fit.offset, nmax, sum_l, sum_l2, sum_xl)
    n_blocks = try_d.shape[0]
    for b in range(n_blocks):
        aa, ab, bb, ax, bx = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
        for i in range(b, code.shape[0], n_blocks):
            c, m = code[i], min_code[i]
            aa += c * c * sum_l2[i]
            ab -= c * m * sum_l[i]
            bb += m * m * sum_w[i]
            ax += c * (sum_xl[i] + base[i] * sum_l[i])
            bx -= m * (sum_x[i] + base[i] * sum_w[i])
        determinant = aa * bb - ab * ab
        if determinant > _SINGULAR * aa * bb:
            try_d[b] = round_to_half(max((bb * ax - ab * bx) / determinant, _ZERO))
        elif aa > _ZERO:
            try_d[b] = round_to_half(max((ax - ab * try_dmin[b]) / aa, _ZERO))
        if bb > _ZERO:
            try_dmin[b] = round_to_half(max((bx - ab * try_d[b]) / bb, _ZERO))


@kernel
def _search_slab(values, importance, start, x, w, plan, fit, blocks, halves, codes, levels):
    """Halves, codes and levels of all blocks of a slab; the shapes are those of Pack."""
    n_sub, n_blocks = codes.shape[2:]
    loaded = -1
    for t in range(-(-values.shape[0] // n_blocks)):
        load(values, t * n_blocks, x)
        phase = (start + t * n_blocks) % importance.shape[0]
        if phase != loaded:
            load_importance(importance, phase, n_sub, w)
            loaded = phase
        search(x, w, plan.nmax, plan.steps, plan.n_refine, _ZERO, fit)
        _first_guess(x, w, plan.nmax, plan.top, plan.spread, plan.n_tries, fit, blocks)
        blocks.error[:] = _INFINITY
        _try_neighbours(x, w, plan.nmax, plan.top, 1, fit, blocks)
        for _ in range(plan.n_rounds):
            _refit(x, w, plan.nmax, fit, blocks)
            _try_neighbours(x, w, plan.nmax, plan.top, 1, fit, blocks)
        _stored_fit(blocks.d, blocks.dmin, blocks.scale_code, blocks.min_code, fit.base, blocks)
        find_levels(x, blocks.scale, blocks.low, plan.nmax, fit.inverse, fit.offset, levels[t])
        for b in range(n_blocks):
            halves[t, 0, b] = blocks.d[b]
            halves[t, 1, b] = blocks.dmin[b]
            for sub in range(n_sub):
                codes[t, 0, sub, b] = np.uint8(blocks.scale_code[sub * n_blocks + b])
                codes[t, 1, sub, b] = np.uint8(blocks.min_code[sub * n_blocks + b])


def encode(w: F32Array, importance: F32Array | None, out: U8Array, n: int, plan: AffinePlan, pack: Pack) -> None:
    """Encode rows as super-blocks with sub-blocks of `n` weights; `pack` writes the bytes."""
    lanes, n_blocks, n_sub = TILE // n, TILE // BLOCK, BLOCK // n
    values = w.reshape(-1, n_sub, n)
    stored = out.reshape(len(values), -1)
    weights = block_importance(importance, w.shape[1], BLOCK)
    x, wx = np.empty((2, n, lanes), dtype=np.float32)
    fit, blocks = empty_fit(lanes), empty_blocks(lanes, n_blocks)
    halves = np.empty((SLAB, 2, n_blocks), dtype=np.float32)
    codes = np.empty((SLAB, 2, n_sub, n_blocks), dtype=np.uint8)
    levels = np.empty((SLAB, n, lanes), dtype=np.uint8)
    for start in range(0, len(values), SLAB * n_blocks):
        part = slice(start, start + SLAB * n_blocks)
        tiles = slice(-(-len(values[part]) // n_blocks))
        _search_slab(values[part], weights, start, x, wx, plan, fit, blocks, halves, codes, levels)
        pack(halves[tiles], codes[tiles], levels[tiles].reshape(-1, n, n_sub, n_blocks), stored[part])
