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
from quant.kernels.symmetric import Levels, empty_fit, invert, level_sums, search, weighted_error
from quant.kernels.tile import BLOCK, SLAB, TILE, block_importance, load
from quant.kernels.units import UnitSearch, best_unit, empty_unit_search, spread_over_lanes

F32Array = NDArray[np.float32]
I8Array = NDArray[np.int8]
U8Array = NDArray[np.uint8]

# values (n_blocks, n_sub, n), d (n_blocks,), codes (n_blocks, n_sub), out (n_blocks, type_size)
Pack = Callable[[F32Array, F32Array, I8Array, U8Array], None]

_ZERO = np.float32(0)
_INFINITY = np.float32(np.inf)


class SymmetricPlan(NamedTuple):
    """How wide to search.

    levels                what weights are rounded to
    lowest_code, highest_code  codes of scales
    steps                 inverse scales to try a sub-block: (levels.lowest - step) / extreme
    n_refine              times the best of them is rounded and fitted again
    spread, n_tries       divisors of the extreme scale to try a block: lowest_code ± spread
    n_rounds              times d is fitted again, neighbouring codes tried after each
    """

    levels: Levels
    lowest_code: np.float32
    highest_code: np.float32
    steps: F32Array
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
        new_code, old_code, new, old = (
            min(max(code[i] + move, lowest_code), highest_code),
            best_code[i],
            error[i],
            best[i],
        )
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
    n_blocks = blocks.d.shape[0]
    for b in range(n_blocks):
        total = _ZERO
        for lane in range(b, blocks.lane_best.shape[0], n_blocks):
            total += blocks.lane_best[lane]
        if total < blocks.error[b]:
            blocks.error[b] = total
            blocks.d[b] = blocks.try_d[b]
            for lane in range(b, blocks.lane_best.shape[0], n_blocks):
                blocks.code[lane] = blocks.try_code[lane]


@inner
def _refit(x, w, plan, fit, blocks):
    """d that suits the candidate's codes and levels best, rounded to a half."""
    scale, lane_d, code = blocks.scale, blocks.lane_d, blocks.try_code
    for i in range(scale.shape[0]):
        scale[i] = lane_d[i] * code[i]
    invert(scale, fit.inverse)
    level_sums(x, w, fit.inverse, plan.levels, fit.sum_l2, fit.sum_xl)
    n_blocks = blocks.d.shape[0]
    for b in range(n_blocks):
        sum_l2, sum_xl = _ZERO, _ZERO
        for lane in range(b, code.shape[0], n_blocks):
            sum_l2 += code[lane] * code[lane] * fit.sum_l2[lane]
            sum_xl += code[lane] * fit.sum_xl[lane]
        if sum_l2 > _ZERO:
            blocks.try_d[b] = round_to_half(sum_xl / sum_l2)


@kernel
def _search_blocks(values, importance, start, x, w, plan, fit, blocks, d, codes):
    n_blocks = blocks.d.shape[0]
    for first in range(0, values.shape[0], n_blocks):
        load(values, importance, start, first, x, w)
        search(x, w, plan.levels, plan.steps, plan.n_refine, fit)
        _first_guess(x, w, plan, fit, blocks)
        blocks.error[:] = _INFINITY
        _try_neighbours(x, w, plan, fit, blocks)
        for _ in range(plan.n_rounds):
            _refit(x, w, plan, fit, blocks)
            _try_neighbours(x, w, plan, fit, blocks)
        for b in range(min(n_blocks, values.shape[0] - first)):
            d[first + b] = blocks.d[b]
            for sub in range(codes.shape[1]):
                codes[first + b, sub] = np.int8(blocks.code[sub * n_blocks + b])


def encode(w: F32Array, importance: F32Array | None, out: U8Array, n: int, plan: SymmetricPlan, pack: Pack) -> None:
    """Encode rows as super-blocks with sub-blocks of `n` weights; `pack` writes the bytes."""
    lanes, n_blocks, n_sub = TILE // n, TILE // BLOCK, BLOCK // n
    values = w.reshape(-1, n_sub, n)
    stored = out.reshape(len(values), -1)
    weights = block_importance(importance, w.shape[1], BLOCK)
    x, wx = np.empty((2, n, lanes), dtype=np.float32)
    fit, blocks = empty_fit(lanes), empty_blocks(lanes, n_blocks)
    d = np.empty(SLAB, dtype=np.float32)
    codes = np.empty((SLAB, n_sub), dtype=np.int8)
    for start in range(0, len(values), SLAB):
        slab = values[start : start + SLAB]
        _search_blocks(slab, weights, start, x, wx, plan, fit, blocks, d, codes)
        pack(slab, d, codes, stored[start : start + SLAB])
