"""Codes and halves of a block's affine sub-blocks: x̂ = (d · scale_code) · l - (dmin · min_code).

Knows lanes (lane = sub · n_blocks + block) and the fits of affine.py. Does not know importance, rows or bytes.

The fit of a sub-block alone is not what gets stored, so the search goes on with what is: d and dmin are rounded to
float16 first, scale codes are then tried up and down with the minimum following each, and d and dmin are fitted again,
jointly, to the codes and levels found. A candidate replaces the best only when its error, measured on the weights, is
smaller.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.kernels.affine import best_fit, gain_of, invert, level_sums, weighted_error
from quant.kernels.compiler import inner
from quant.kernels.halves import round_to_half
from quant.kernels.units import TINY, UnitSearch, best_unit, empty_unit_search, spread_over_lanes

F32Array = NDArray[np.float32]

_ZERO = np.float32(0)
_SINGULAR = np.float32(1e-5)  # codes or levels are all alike: d cannot be told from dmin
_INFINITY = np.float32(np.inf)


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
def first_guess(x, w, plan, fit, blocks):
    """d and dmin from the fits: first the scales, then the minima that suit the rounded scales."""
    top, spread, n_tries = plan.top, plan.spread, plan.n_tries
    invert(fit.scale, fit.low, fit.inverse, fit.offset)
    level_sums(x, w, fit.inverse, fit.offset, plan.nmax, fit.sum_l, fit.sum_l2, fit.sum_xl)
    sum_w, sum_x, sum_l, sum_l2 = fit.sum_w, fit.sum_x, fit.sum_l, fit.sum_l2
    above, below, minimum = blocks.lane_error, blocks.lane_best, blocks.low
    code, lane_d = blocks.try_scale_code, blocks.lane_d
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
def try_codes(x, w, plan, fit, blocks):
    """Scale codes of every lane moved to the best within reach, the minimum following each.

    Expects the sums of the candidate's levels in `fit`. They tell which minimum suits a neighbouring scale; levels are
    then found anew and the minimum once more.
    """
    code, min_code, lane_d, lane_dmin = blocks.try_scale_code, blocks.try_min_code, blocks.lane_d, blocks.lane_dmin
    best_code, best_min_code = blocks.next_scale_code, blocks.next_min_code
    best, mean_l = blocks.lane_best, blocks.lane_error
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
def forget_best(blocks):
    """Zeros are the best so far: what remains of a block whose every error is NaN."""
    blocks.error[:] = _INFINITY
    blocks.d[:] = _ZERO
    blocks.dmin[:] = _ZERO
    blocks.scale_code[:] = _ZERO
    blocks.min_code[:] = _ZERO


@inner
def _keep_better(blocks):
    """The candidate replaces the best of its block where its error is smaller."""
    n_blocks = blocks.d.shape[0]
    lane_best, error = blocks.lane_best, blocks.error
    code, min_code = blocks.scale_code, blocks.min_code
    try_code, try_min_code = blocks.try_scale_code, blocks.try_min_code
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
def decode(code, min_code, base, blocks):
    """blocks.scale and blocks.low as decoded from codes and from the halves spread over lanes."""
    scale, low, lane_d, lane_dmin = blocks.scale, blocks.low, blocks.lane_d, blocks.lane_dmin
    for i in range(scale.shape[0]):
        scale[i] = lane_d[i] * code[i]
        low[i] = -lane_dmin[i] * min_code[i] - base[i]


@inner
def follow_levels(top, fit, blocks):
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
def sum_levels(x, w, nmax, fit, blocks):
    """Sums of the candidate's levels into `fit`, its decoded scales and lows into `blocks`."""
    decode(blocks.try_scale_code, blocks.try_min_code, fit.base, blocks)
    invert(blocks.scale, blocks.low, fit.inverse, fit.offset)
    level_sums(x, w, fit.inverse, fit.offset, nmax, fit.sum_l, fit.sum_l2, fit.sum_xl)


@inner
def refit(fit, blocks):
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
def compare(x, w, nmax, fit, blocks):
    """The candidate as it stands against the best of each block."""
    decode(blocks.try_scale_code, blocks.try_min_code, fit.base, blocks)
    weighted_error(x, w, blocks.scale, blocks.low, nmax, fit.inverse, blocks.lane_best)
    _keep_better(blocks)
