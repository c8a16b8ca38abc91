"""Super-blocks of affine sub-blocks: what Q2_K, Q4_K and Q5_K share.

      x̂ = (d · scale_code) · l - (dmin · min_code),   codes 0..15 (Q2_K) or 0..63 (Q4_K, Q5_K)

Knows the order of the search: a tile is loaded, sub-blocks are fitted (affine.py), halves and codes chosen
(affine_codes.py), levels found. Does not know bytes: each layout's file packs them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.kernels.affine import empty_fit, find_levels, search
from quant.kernels.affine_codes import (
    compare,
    decode,
    empty_blocks,
    first_guess,
    follow_levels,
    forget_best,
    refit,
    sum_levels,
    try_codes,
)
from quant.kernels.compiler import kernel
from quant.kernels.tile import BLOCK, SLAB, TILE, block_importance, load_tile
from quant.kernels.units import spread_over_lanes

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]

# Writes the bytes of a slab of tiles, each of n_blocks blocks side by side; out (blocks, type_size) may end earlier.
# halves (tiles, 2, n_blocks)         d, dmin, values that round_to_half returned
# codes  (tiles, 2, n_sub, n_blocks)  codes of scales, of minima
# levels (tiles, n, n_sub, n_blocks)
Pack = Callable[[F32Array, U8Array, U8Array, U8Array], None]

_ZERO = np.float32(0)


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


@kernel
def _search_slab(values, importance, start, x, w, plan, fit, blocks, halves, codes, levels):
    """Halves, codes and levels of all blocks of a slab; the shapes are those of Pack."""
    n_sub, n_blocks = codes.shape[2:]
    loaded = -1
    for t in range(-(-values.shape[0] // n_blocks)):
        loaded = load_tile(values, importance, start, t * n_blocks, loaded, x, w)
        search(x, w, plan.nmax, plan.ends, plan.n_refine, _ZERO, fit)
        first_guess(x, w, plan, fit, blocks)
        forget_best(blocks)
        compare(x, w, plan.nmax, fit, blocks)
        for _ in range(plan.n_rounds):
            sum_levels(x, w, plan.nmax, fit, blocks)
            if plan.reach > 0:
                try_codes(x, w, plan, fit, blocks)
                sum_levels(x, w, plan.nmax, fit, blocks)
            follow_levels(plan.top, fit, blocks)
            refit(fit, blocks)
            compare(x, w, plan.nmax, fit, blocks)
        spread_over_lanes(blocks.d, blocks.lane_d)
        spread_over_lanes(blocks.dmin, blocks.lane_dmin)
        decode(blocks.scale_code, blocks.min_code, fit.base, blocks)
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
