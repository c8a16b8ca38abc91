"""Scales of scales: the 8 or 16 symmetric sub-blocks of a super-block stored as small codes times one half.

      x̂ = (d · code) · l,   codes -32..31 (Q3_K, IQ4_XS) or -128..127 (Q6_K)

Knows lanes (lane = sub · n_blocks + block) and the fits of symmetric.py. Does not know bytes.

As in affine_blocks.py, the search ends with what is stored: d rounded to float16, codes tried one up and one down on
the weights themselves, d fitted again to codes and levels. A candidate replaces the best when its error is smaller.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import round_to_half
from quant.kernels.symmetric import Levels, empty_fit, find_levels, invert, level_sums, search, weighted_error
from quant.kernels.tile import BLOCK, SLAB, TILE, block_importance, load_tile
from quant.kernels.units import UnitSearch, best_unit, empty_unit_search, spread_over_lanes

F32Array = NDArray[np.float32]
I8Array = NDArray[np.int8]
U8Array = NDArray[np.uint8]

# Writes the bytes of a slab of tiles, each of n_blocks blocks side by side; out (blocks, type_size) may end earlier.
# halves (tiles, n_blocks)            d, values that round_to_half returned
# codes  (tiles, n_sub, n_blocks)     int8
# levels (tiles, n, n_sub, n_blocks)  counted from the lowest level, or entries of the uneven table
Pack = Callable[[F32Array, I8Array, U8Array, U8Array], None]

_ZERO = np.float32(0)
_ONE = np.float32(1)
_INFINITY = np.float32(np.inf)


class SymmetricPlan(NamedTuple):
    """How wide to search.

    levels                what weights are rounded to
    lowest_code, highest_code  codes of scales
    ends                  levels to try for the extreme weight of a sub-block
    n_refine              times the best of them is rounded and fitted again
    spread, n_tries       divisors of the extreme scale to try a block: lowest_code ± spread
    n_rounds              times d is fitted again to codes and levels, neighbouring codes tried after each
    """

    levels: Levels
    lowest_code: np.float32
    highest_code: np.float32
    ends: F32Array
    n_refine: int
    spread: np.float32
    n_tries: int
    n_rounds: int


class SymmetricBlocks(NamedTuple):
    """Stored scales of a tile: best so far, the candidate, and scratch. Per block (n_blocks,), per lane (lanes,)."""

    d: F32Array
    error: F32Array
    code: F32Array
    try_d: F32Array
    try_code: F32Array
    next_code: F32Array
    lane_d: F32Array
    lane_error: F32Array
    lane_best: F32Array
    scale: F32Array
    units: UnitSearch


def empty_blocks(lanes: int, n_blocks: int) -> SymmetricBlocks:
    per_block = {"d", "error", "try_d"}
    arrays = [
        np.empty(n_blocks if name in per_block else lanes, dtype=np.float32) for name in SymmetricBlocks._fields[:-1]
    ]
    return SymmetricBlocks._make([*arrays, empty_unit_search(n_blocks)])


@inner
def _first_guess(x, w, plan, fit, blocks):
    """d and codes from the fits."""
    invert(fit.scale, fit.inverse)
    level_sums(x, w, fit.inverse, plan.levels, fit.sum_l2, fit.sum_xl)
    lowest_code, highest_code = plan.lowest_code, plan.highest_code
    best_unit(
        fit.scale,
        fit.sum_l2,
        fit.sum_l2,
        lowest_code,
        highest_code,
        lowest_code,
        plan.spread,
        plan.n_tries,
        blocks.units,
        blocks.try_d,
    )
    spread_over_lanes(blocks.try_d, blocks.lane_d)
    scale, lane_d, code = fit.scale, blocks.lane_d, blocks.try_code
    for i in range(code.shape[0]):
        ratio = scale[i] / lane_d[i] if lane_d[i] != _ZERO else _ZERO
        code[i] = min(max(np.rint(ratio), lowest_code), highest_code)


@inner
def _try_move(x, w, plan, move, inverse, blocks):
    """Move the code of every lane; lanes with a smaller error remember it."""
    code, scale, lane_d = blocks.try_code, blocks.scale, blocks.lane_d
    lowest_code, highest_code = plan.lowest_code, plan.highest_code
    for i in range(scale.shape[0]):
        scale[i] = lane_d[i] * min(max(code[i] + move, lowest_code), highest_code)
    error, best, best_code = blocks.lane_error, blocks.lane_best, blocks.next_code
    weighted_error(x, w, scale, plan.levels, inverse, error)
    for i in range(scale.shape[0]):
        new_code = min(max(code[i] + move, lowest_code), highest_code)
        old_code, new, old = best_code[i], error[i], best[i]
        best_code[i] = new_code if new < old else old_code
        best[i] = new if new < old else old


@inner
def _try_neighbours(x, w, plan, fit, blocks):
    """Codes of every lane moved to the best of their neighbours; the block kept when its error is the smallest yet."""
    spread_over_lanes(blocks.try_d, blocks.lane_d)
    blocks.lane_best[:] = _INFINITY
    for move in range(-1, 2):
        _try_move(x, w, plan, np.float32(move), fit.inverse, blocks)
    code, best_code = blocks.try_code, blocks.next_code
    for i in range(code.shape[0]):
        code[i] = best_code[i]
    _keep_better(blocks)


@inner
def _keep_better(blocks):
    """The candidate replaces the best of its block where its error is smaller."""
    n_blocks = blocks.d.shape[0]
    lane_best, error, code, try_code = blocks.lane_best, blocks.error, blocks.code, blocks.try_code
    for b in range(n_blocks):
        total = _ZERO
        for lane in range(b, lane_best.shape[0], n_blocks):
            total += lane_best[lane]
        if total < error[b]:
            error[b] = total
            blocks.d[b] = blocks.try_d[b]
            for lane in range(b, lane_best.shape[0], n_blocks):
                code[lane] = try_code[lane]


@inner
def _stored_scale(d, code, blocks):
    """blocks.scale as it will be decoded from halves and codes."""
    scale, lane_d = blocks.scale, blocks.lane_d
    spread_over_lanes(d, lane_d)
    for i in range(scale.shape[0]):
        scale[i] = lane_d[i] * code[i]


@inner
def _refit(x, w, plan, fit, blocks):
    """d that suits the candidate's codes and levels best, rounded to a half."""
    code, try_d, lane_l2, lane_xl = blocks.try_code, blocks.try_d, fit.sum_l2, fit.sum_xl
    _stored_scale(try_d, code, blocks)
    invert(blocks.scale, fit.inverse)
    level_sums(x, w, fit.inverse, plan.levels, lane_l2, lane_xl)
    n_blocks = try_d.shape[0]
    for b in range(n_blocks):
        sum_l2, sum_xl = _ZERO, _ZERO
        for lane in range(b, code.shape[0], n_blocks):
            c = code[lane]
            sum_l2 += c * c * lane_l2[lane]
            sum_xl += c * lane_xl[lane]
        if sum_l2 > _ZERO:
            try_d[b] = round_to_half(sum_xl / sum_l2)


@kernel
def _search_slab(values, importance, start, x, w, plan, fit, blocks, halves, codes, levels):
    """Halves, codes and levels of all blocks of a slab; the shapes are those of Pack."""
    n_sub, n_blocks = codes.shape[1:]
    loaded = -1
    # rounding to code c loses about 1/12c² of what a scale gains; a larger scale makes all codes of its block coarser
    least = _ONE + _ONE / (np.float32(32) * plan.lowest_code * plan.lowest_code)
    for t in range(-(-values.shape[0] // n_blocks)):
        loaded = load_tile(values, importance, start, t * n_blocks, loaded, x, w)
        search(x, w, plan.levels, plan.ends, plan.n_refine, least, fit)
        _first_guess(x, w, plan, fit, blocks)
        blocks.error[:] = _INFINITY
        blocks.d[:] = _ZERO  # what remains of a block whose every error is NaN
        blocks.code[:] = _ZERO
        _try_neighbours(x, w, plan, fit, blocks)
        for _ in range(plan.n_rounds):
            _refit(x, w, plan, fit, blocks)
            _try_neighbours(x, w, plan, fit, blocks)
        _stored_scale(blocks.d, blocks.code, blocks)
        find_levels(x, blocks.scale, plan.levels, fit.inverse, levels[t])
        for b in range(n_blocks):
            halves[t, b] = blocks.d[b]
            for sub in range(n_sub):
                codes[t, sub, b] = np.int8(blocks.code[sub * n_blocks + b])


def encode(w: F32Array, importance: F32Array | None, out: U8Array, n: int, plan: SymmetricPlan, pack: Pack) -> None:
    """Encode rows as super-blocks with sub-blocks of `n` weights; `pack` writes the bytes."""
    lanes, n_blocks, n_sub = TILE // n, TILE // BLOCK, BLOCK // n
    values = w.reshape(-1, n_sub, n)
    stored = out.reshape(len(values), -1)
    weights = block_importance(importance, w.shape[1], BLOCK)
    x, wx = np.empty((2, n, lanes), dtype=np.float32)
    fit, blocks = empty_fit(lanes), empty_blocks(lanes, n_blocks)
    halves = np.empty((SLAB, n_blocks), dtype=np.float32)
    codes = np.empty((SLAB, n_sub, n_blocks), dtype=np.int8)
    levels = np.empty((SLAB, n, lanes), dtype=np.uint8)
    for start in range(0, len(values), SLAB * n_blocks):
        part = slice(start, start + SLAB * n_blocks)
        tiles = slice(-(-len(values[part]) // n_blocks))
        _search_slab(values[part], weights, start, x, wx, plan, fit, blocks, halves, codes, levels)
        pack(halves[tiles], codes[tiles], levels[tiles].reshape(-1, n, n_sub, n_blocks), stored[part])
