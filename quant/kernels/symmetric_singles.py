"""Blocks of 32 weights with one half for a scale: x̂ = d · l. What Q4_0, Q5_0 and IQ4_NL share.

Knows the fits of symmetric.py. Does not know bytes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import round_to_half
from quant.kernels.symmetric import Levels, empty_fit, find_levels, search, weighted_error
from quant.kernels.tile import SLAB, TILE, block_importance, load_tile

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]

# Writes the bytes of a slab of tiles, each of n_blocks blocks side by side; out (blocks, type_size) may end earlier.
# halves (tiles, n_blocks)      d, values that round_to_half returned
# levels (tiles, 32, n_blocks)  counted from the lowest level, or entries of the uneven table
Pack = Callable[[F32Array, U8Array, U8Array], None]

N = 32
_ZERO = np.float32(0)
_ONE = np.float32(1)
_INFINITY = np.float32(np.inf)


class SinglePlan(NamedTuple):
    """How wide to search.

    levels    what weights are rounded to
    ends      levels to try for the extreme weight
    n_refine  times the best of them is rounded and fitted again
    n_plain   plain scales extreme / (levels.lowest + k), k = 0..n_plain-1, tried besides the fitted one
    """

    levels: Levels
    ends: F32Array
    n_refine: int
    n_plain: int


@inner
def _round_scales(x, w, plan, fit, best, error, d):
    """The fitted scale or a plain one as a half, whichever misses less once rounded."""
    scale, extreme = fit.scale, fit.extreme
    if plan.n_plain == 0:
        for i in range(scale.shape[0]):
            d[i] = round_to_half(scale[i])
        return
    best[:] = _INFINITY
    d[:] = _ZERO
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
def _search_slab(values, importance, start, x, w, plan, fit, best, error, halves, levels):
    """Halves and levels of all blocks of a slab; the shapes are those of Pack."""
    n_blocks = halves.shape[1]
    loaded = -1
    for t in range(-(-values.shape[0] // n_blocks)):
        loaded = load_tile(values, importance, start, t * n_blocks, loaded, x, w)
        search(x, w, plan.levels, plan.ends, plan.n_refine, _ONE, fit)
        _round_scales(x, w, plan, fit, best, error, halves[t])
        find_levels(x, halves[t], plan.levels, fit.inverse, levels[t])


def encode(w: F32Array, importance: F32Array | None, out: U8Array, plan: SinglePlan, pack: Pack) -> None:
    """Encode rows; `pack` writes the bytes."""
    n_blocks = TILE // N
    values = w.reshape(-1, 1, N)
    stored = out.reshape(len(values), -1)
    weights = block_importance(importance, w.shape[1], N)
    x, wx = np.empty((2, N, n_blocks), dtype=np.float32)
    best, error = np.empty((2, n_blocks), dtype=np.float32)
    fit = empty_fit(n_blocks)
    halves = np.empty((SLAB, n_blocks), dtype=np.float32)
    levels = np.empty((SLAB, N, n_blocks), dtype=np.uint8)
    for start in range(0, len(values), SLAB * n_blocks):
        part = slice(start, start + SLAB * n_blocks)
        tiles = slice(-(-len(values[part]) // n_blocks))
        _search_slab(values[part], weights, start, x, wx, plan, fit, best, error, halves, levels)
        pack(halves[tiles], levels[tiles], stored[part])
