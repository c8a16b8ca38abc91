"""Blocks of 32 weights with one half for a scale: x̂ = d · l. What Q4_0, Q5_0 and IQ4_NL share.

Knows the fits of symmetric.py. Does not know bytes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import round_to_half
from quant.kernels.symmetric import Levels, empty_fit, search, weighted_error
from quant.kernels.tile import SLAB, TILE, block_importance, load

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]

# values (n_blocks, 1, 32), d (n_blocks,), out (n_blocks, type_size)
Pack = Callable[[F32Array, F32Array, U8Array], None]

N = 32
_INFINITY = np.float32(np.inf)


class SinglePlan(NamedTuple):
    """How wide to search.

    levels    what weights are rounded to
    steps     inverse scales to try: (levels.lowest - step) / extreme
    n_refine  times the best of them is rounded and fitted again
    n_plain   plain scales extreme / (levels.lowest + k), k = 0..n_plain-1, tried besides the fitted one
    """

    levels: Levels
    steps: F32Array
    n_refine: int
    n_plain: int


@inner
def _round_scales(x, w, plan, fit, best, error, d):
    """The fitted scale or a plain one as a half, whichever misses less once rounded."""
    scale, extreme = fit.scale, fit.extreme
    best[:] = _INFINITY
    for k in range(plan.n_plain + 1):
        divisor = plan.levels.lowest + np.float32(k - 1)
        for i in range(scale.shape[0]):
            fitted = scale[i]
            plain = extreme[i] / divisor
            scale[i] = round_to_half(fitted if k == 0 else plain)
        weighted_error(x, w, scale, plan.levels, fit.inverse, error)
        for i in range(scale.shape[0]):
            new, old, new_d, old_d = error[i], best[i], scale[i], d[i]
            best[i] = new if new < old else old
            d[i] = new_d if new < old else old_d


@kernel
def _search_blocks(values, importance, start, x, w, plan, fit, best, error, tile_d, d):
    lanes = tile_d.shape[0]
    for first in range(0, values.shape[0], lanes):
        load(values, importance, start, first, x, w)
        search(x, w, plan.levels, plan.steps, plan.n_refine, fit)
        _round_scales(x, w, plan, fit, best, error, tile_d)
        for b in range(min(lanes, values.shape[0] - first)):
            d[first + b] = tile_d[b]


def encode(w: F32Array, importance: F32Array | None, out: U8Array, plan: SinglePlan, pack: Pack) -> None:
    """Encode rows; `pack` writes the bytes."""
    lanes, slab = TILE // N, SLAB * TILE // N
    values = w.reshape(-1, 1, N)
    stored = out.reshape(len(values), -1)
    weights = block_importance(importance, w.shape[1], N)
    x, wx = np.empty((2, N, lanes), dtype=np.float32)
    best, error, tile_d = np.empty((3, lanes), dtype=np.float32)
    fit, d = empty_fit(lanes), np.empty(slab, dtype=np.float32)
    for start in range(0, len(values), slab):
        part = values[start : start + slab]
        _search_blocks(part, weights, start, x, wx, plan, fit, best, error, tile_d, d)
        pack(part, d, stored[start : start + slab])
