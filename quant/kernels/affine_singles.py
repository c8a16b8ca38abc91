"""Blocks of 32 weights with a half for scale and one for the smallest value: x̂ = d · l + m. What Q4_1 and Q5_1 share.

Knows the fits of affine.py. Does not know bytes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.kernels.affine import empty_fit, find_levels, search, weighted_error
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import round_to_half
from quant.kernels.tile import SLAB, TILE, block_importance, load, load_importance

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]

# Writes the bytes of a slab of tiles, each of n_blocks blocks side by side; out (blocks, type_size) may end earlier.
# halves (tiles, 2, n_blocks)   d, m, values that round_to_half returned
# levels (tiles, 32, n_blocks)
Pack = Callable[[F32Array, U8Array, U8Array], None]

N = 32
_ZERO = np.float32(0)
_INFINITY = np.float32(np.inf)


class SinglePlan(NamedTuple):
    """How wide to search.

    nmax      highest level
    steps     inverse scales to try: (nmax + step) / range
    n_refine  times the best of them is rounded and fitted again
    """

    nmax: np.float32
    steps: F32Array
    n_refine: int


@inner
def _round_scales(x, w, nmax, fit, error, best, d, m):
    """Fitted scale and minimum as halves, or the plain ones (range / nmax, smallest), whichever miss less."""
    scale, low, base, width = fit.scale, fit.low, fit.base, fit.width
    for i in range(scale.shape[0]):
        minimum = round_to_half(low[i] + base[i])
        # equal weights need no scale: it makes up for what the minimum lost when it was rounded
        fitted = scale[i]
        left = low[i] + base[i] - minimum
        d[i] = round_to_half(fitted if fitted > _ZERO else left)
        m[i] = minimum
        low[i] = minimum - base[i]
    weighted_error(x, w, d, low, nmax, fit.inverse, best)
    for i in range(scale.shape[0]):
        scale[i] = round_to_half(width[i] / nmax)
        low[i] = round_to_half(base[i]) - base[i]
    weighted_error(x, w, scale, low, nmax, fit.inverse, error)
    for i in range(scale.shape[0]):
        new, old, new_d, old_d, new_m, old_m = error[i], best[i], scale[i], d[i], low[i] + base[i], m[i]
        d[i] = new_d if new < old else old_d
        m[i] = new_m if new < old else old_m


@kernel
def _search_slab(values, importance, start, x, w, plan, fit, error, best, halves, levels):
    """Halves and levels of all blocks of a slab; the shapes are those of Pack."""
    n_blocks = halves.shape[2]
    loaded = -1
    for t in range(-(-values.shape[0] // n_blocks)):
        load(values, t * n_blocks, x)
        phase = (start + t * n_blocks) % importance.shape[0]
        if phase != loaded:
            load_importance(importance, phase, 1, w)
            loaded = phase
        search(x, w, plan.nmax, plan.steps, plan.n_refine, _INFINITY, fit)
        d, m, low, base = halves[t, 0], halves[t, 1], fit.low, fit.base
        _round_scales(x, w, plan.nmax, fit, error, best, d, m)
        for i in range(n_blocks):
            low[i] = m[i] - base[i]
        find_levels(x, d, low, plan.nmax, fit.inverse, fit.offset, levels[t])


def encode(w: F32Array, importance: F32Array | None, out: U8Array, plan: SinglePlan, pack: Pack) -> None:
    """Encode rows; `pack` writes the bytes."""
    n_blocks = TILE // N
    values = w.reshape(-1, 1, N)
    stored = out.reshape(len(values), -1)
    weights = block_importance(importance, w.shape[1], N)
    x, wx = np.empty((2, N, n_blocks), dtype=np.float32)
    error, best = np.empty((2, n_blocks), dtype=np.float32)
    fit = empty_fit(n_blocks)
    halves = np.empty((SLAB, 2, n_blocks), dtype=np.float32)
    levels = np.empty((SLAB, N, n_blocks), dtype=np.uint8)
    for start in range(0, len(values), SLAB * n_blocks):
        part = slice(start, start + SLAB * n_blocks)
        tiles = slice(-(-len(values[part]) // n_blocks))
        _search_slab(values[part], weights, start, x, wx, plan, fit, error, best, halves, levels)
        pack(halves[tiles], levels[tiles], stored[part])
