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

from quant.kernels.affine import best_fit, empty_fit, find_levels, gain_of, invert, level_sums, search, weighted_error
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
    ends                levels to try for the smallest and the largest weight of a sub-block, (n_ends, 2)
    n_refine            times the best of them is rounded and fitted again
    spread, n_tries     divisors of the largest scale to try a block: top ± spread
    n_rounds            times codes, d and dmin are fitted again to the levels that they lead to
    reach               how far scale codes are moved in each round, up and down
    """

    nmax: np.float32
    top: np.float32
    ends: F32Array
    n_refine: int
    spread: np.float32
    n_tries: int
    n_rounds: int
    reach: int


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
def _code(value, unit, top):
    return min(max(np.rint(value / max(unit, TINY)), _ZERO), top)


@inner
def _codes(value, lane_unit, top, code):
    for i in range(value.shape[0]):
        code[i] = _code(value[i], lane_unit[i], top)


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
def _try_codes(x, w, plan, fit, blocks):
    """Scale codes of every lane moved to the best within reach, the minimum following each.

    Expects the sums of the candidate's levels in `fit`. They tell which minimum suits a neighbouring scale; levels are
    then found anew and the minimum once more.
    """
    code, min_code, lane_d, lane_dmin = blocks.try_scale_code, blocks.try_min_code, blocks.lane_d, blocks.lane_dmin
    best_code, best_min_code, best, mean_l = (
        blocks.next_scale_code,
        blocks.next_min_code,
        blocks.lane_best,
        blocks.lane_error,
    )
    sum_w, sum_x, sum_l, sum_l2, sum_xl = fit.sum_w, fit.sum_x, fit.sum_l, fit.sum_l2, fit.sum_xl
    scale, low, base, top = blocks.scale, blocks.low, fit.base, plan.top
    for i in range(code.shape[0]):
        mean_l[i] = sum_l[i] / sum_w[i]
        best[i] = -_INFINITY
    for move in range(-plan.reach, plan.reach + 1):
        for i in range(code.shape[0]):
            new_code = min(max(code[i] + np.float32(move), _ZERO), top)
            scale[i] = lane_d[i] * new_code
            minimum = scale[i] * mean_l[i] - sum_x[i] / sum_w[i] - base[i]
            low[i] = -lane_dmin[i] * _code(minimum, lane_dmin[i], top) - base[i]
        invert(scale, low, fit.inverse, fit.offset)
        level_sums(x, w, fit.inverse, fit.offset, plan.nmax, sum_l, sum_l2, sum_xl)
        for i in range(code.shape[0]):
            new_code = min(max(code[i] + np.float32(move), _ZERO), top)
            minimum = (scale[i] * sum_l[i] - sum_x[i]) / sum_w[i] - base[i]
            new_min_code = _code(minimum, lane_dmin[i], top)
            new_low = -lane_dmin[i] * new_min_code - base[i]
            gain = gain_of(scale[i], new_low, sum_w[i], sum_x[i], sum_l[i], sum_l2[i], sum_xl[i])
            old_code, old_min_code, old = best_code[i], best_min_code[i], best[i]
            best_code[i] = new_code if gain > old else old_code
            best_min_code[i] = new_min_code if gain > old else old_min_code
            best[i] = gain if gain > old else old
    for i in range(code.shape[0]):
        code[i] = best_code[i]
        min_code[i] = best_min_code[i]


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
def _decode(code, min_code, base, blocks):
    """blocks.scale and blocks.low as decoded from codes and from the halves spread over lanes."""
    scale, low, lane_d, lane_dmin = blocks.scale, blocks.low, blocks.lane_d, blocks.lane_dmin
    for i in range(scale.shape[0]):
        scale[i] = lane_d[i] * code[i]
        low[i] = -lane_dmin[i] * min_code[i] - base[i]


@inner
def _follow_levels(top, fit, blocks):
    """Codes that suit the candidate's halves and the levels just summed best; no look at the weights."""
    code, min_code, lane_d, lane_dmin = blocks.try_scale_code, blocks.try_min_code, blocks.lane_d, blocks.lane_dmin
    sum_w, sum_x, sum_l, sum_l2, sum_xl = fit.sum_w, fit.sum_x, fit.sum_l, fit.sum_l2, fit.sum_xl
    base, largest_low = fit.base, fit.largest_low
    for i in range(code.shape[0]):
        sw, sx, sl, sl2, sxl, d, dmin = sum_w[i], sum_x[i], sum_l[i], sum_l2[i], sum_xl[i], lane_d[i], lane_dmin[i]
        scale, _ = best_fit(sw, sx, sl, sl2, sxl, largest_low[i])
        below = np.floor(scale / max(d, TINY))
        best_code, best_min_code, best = code[i], min_code[i], -_INFINITY
        for k in range(2):
            new_code = min(max(below + np.float32(k), _ZERO), top)
            minimum = (d * new_code * sl - sx) / sw - base[i]
            new_min_code = min(max(np.rint(minimum / max(dmin, TINY)), _ZERO), top)
            gain = gain_of(d * new_code, -dmin * new_min_code - base[i], sw, sx, sl, sl2, sxl)
            better = gain > best
            best_code = new_code if better else best_code
            best_min_code = new_min_code if better else best_min_code
            best = gain if better else best
        code[i] = best_code
        min_code[i] = best_min_code


@inner
def _sum_levels(x, w, nmax, fit, blocks):
    """Sums of the candidate's levels into `fit`, its decoded scales and lows into `blocks`."""
    _decode(blocks.try_scale_code, blocks.try_min_code, fit.base, blocks)
    invert(blocks.scale, blocks.low, fit.inverse, fit.offset)
    level_sums(x, w, fit.inverse, fit.offset, nmax, fit.sum_l, fit.sum_l2, fit.sum_xl)


@inner
def _refit(fit, blocks):
    """d and dmin that suit the codes and levels just summed best: two normal equations a block, rounded to halves."""
    code, min_code, base = blocks.try_scale_code, blocks.try_min_code, fit.base
    sum_w, sum_x, sum_l, sum_l2, sum_xl = fit.sum_w, fit.sum_x, fit.sum_l, fit.sum_l2, fit.sum_xl
    try_d, try_dmin = blocks.try_d, blocks.try_dmin
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
    spread_over_lanes(try_d, blocks.lane_d)
    spread_over_lanes(try_dmin, blocks.lane_dmin)


@inner
def _compare(x, w, nmax, fit, blocks):
    """The candidate as it stands against the best of each block."""
    _decode(blocks.try_scale_code, blocks.try_min_code, fit.base, blocks)
    weighted_error(x, w, blocks.scale, blocks.low, nmax, fit.inverse, blocks.lane_best)
    _keep_better(blocks)


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
        search(x, w, plan.nmax, plan.ends, plan.n_refine, _ZERO, fit)
        _first_guess(x, w, plan.nmax, plan.top, plan.spread, plan.n_tries, fit, blocks)
        blocks.error[:] = _INFINITY
        _compare(x, w, plan.nmax, fit, blocks)
        for _ in range(plan.n_rounds):
            _sum_levels(x, w, plan.nmax, fit, blocks)
            if plan.reach > 0:
                _try_codes(x, w, plan, fit, blocks)
                _sum_levels(x, w, plan.nmax, fit, blocks)
            _follow_levels(plan.top, fit, blocks)
            _refit(fit, blocks)
            _compare(x, w, plan.nmax, fit, blocks)
        spread_over_lanes(blocks.d, blocks.lane_d)
        spread_over_lanes(blocks.dmin, blocks.lane_dmin)
        _decode(blocks.scale_code, blocks.min_code, fit.base, blocks)
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
