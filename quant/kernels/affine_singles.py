"""Blocks of 32 weights with a half for scale and one for the smallest value: x̂ = d · l + m. What Q4_1 and Q5_1 share.

Knows the fits of affine.py. Does not know bytes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.kernels.affine import empty_fit, search, weighted_error
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import round_to_half
from quant.kernels.tile import SLAB, TILE, block_importance, load

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]

# values (n_blocks, 1, 32), d, m (n_blocks,), out (n_blocks, type_size)
Pack = Callable[[F32Array, F32Array, F32Array, U8Array], None]

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
def _search_blocks(values, importance, start, x, w, plan, fit, error, best, tile_d, tile_m, d, m):
    lanes = tile_d.shape[0]
    for first in range(0, values.shape[0], lanes):
        load(values, importance, start, first, x, w)
        search(x, w, plan.nmax, plan.steps, plan.n_refine, _INFINITY, fit)
        _round_scales(x, w, plan.nmax, fit, error, best, tile_d, tile_m)
        for b in range(min(lanes, values.shape[0] - first)):
            d[first + b] = tile_d[b]
            m[first + b] = tile_m[b]


def encode(w: F32Array, importance: F32Array | None, out: U8Array, plan: SinglePlan, pack: Pack) -> None:
    """Encode rows; `pack` writes the bytes."""
    lanes, slab = TILE // N, SLAB * TILE // N
    values = w.reshape(-1, 1, N)
    stored = out.reshape(len(values), -1)
    weights = block_importance(importance, w.shape[1], N)
    x, wx = np.empty((2, N, lanes), dtype=np.float32)
    error, best, tile_d, tile_m = np.empty((4, lanes), dtype=np.float32)
    fit = empty_fit(lanes)
    d, m = np.empty((2, slab), dtype=np.float32)
    for start in range(0, len(values), slab):
        part = values[start : start + slab]
        _search_blocks(part, weights, start, x, wx, plan, fit, error, best, tile_d, tile_m, d, m)
        pack(part, d, m, stored[start : start + slab])
