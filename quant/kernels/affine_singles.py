"""Blocks of 32 weights with a half for scale and one for the smallest value: x̂ = d · l + m. What Q4_1 and Q5_1 share.

Knows the fits of affine.py. Does not know bytes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.kernels.affine import empty_fit, find_levels, invert, level_sums, search, weighted_error
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import round_to_half, store_half
from quant.kernels.tile import SLAB, TILE, block_importance, load_tile

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]

# Writes the bytes of a slab of tiles, each of n_blocks blocks side by side; out (blocks, type_size) may end earlier.
# halves (tiles, 2, n_blocks)   d, m, values that round_to_half returned
# levels (tiles, 32, n_blocks)
Pack = Callable[[F32Array, U8Array, U8Array], None]

N = 32
_ZERO = np.float32(0)
_ONE = np.float32(1)
_BITS = (1 << np.arange(32, dtype=np.uint64)).astype(np.uint32)
_NEXT_HALF = np.float32(0.75 / 1024)  # a half has 11 bits: this share more of it rounds to the next one or two
_INFINITY = np.float32(np.inf)


class SinglePlan(NamedTuple):
    """How wide to search.

    nmax      highest level
    ends      levels to try for the smallest and the largest weight, (n_ends, 2)
    n_refine  times the best of them is rounded and fitted again
    """

    nmax: np.float32
    ends: F32Array
    n_refine: int


@inner
def _round_scales(x, w, nmax, fit, error, best, d, m):
    """Scale and minimum as halves: the fitted ones, the next halves on either side, or the plain ones.

    The minimum follows each rounded scale. Sets d and m, and fit.low to what m means after the move to the base.
    """
    scale, low, base, width, inverse = fit.scale, fit.low, fit.base, fit.width, fit.inverse
    sum_w, sum_x, sum_l = fit.sum_w, fit.sum_x, fit.sum_l
    invert(scale, low, inverse, fit.offset)
    level_sums(x, w, inverse, fit.offset, nmax, sum_l, fit.sum_l2, fit.sum_xl)
    best[:] = _INFINITY
    d[:] = _ZERO
    m[:] = _ZERO
    try_d, try_m = fit.sum_l2, fit.sum_xl
    for k in range(4):
        for i in range(scale.shape[0]):
            half = round_to_half(scale[i] * (_ONE + np.float32(k - 1) * _NEXT_HALF))
            minimum = round_to_half((sum_x[i] - half * sum_l[i]) / sum_w[i] + base[i])
            # equal weights need no scale: it makes up for what the minimum lost when it was rounded
            left = round_to_half(low[i] + base[i] - minimum)
            fitted = half if scale[i] > _ZERO else left
            plain, smallest = round_to_half(width[i] / nmax), round_to_half(base[i])
            try_d[i] = fitted if k < 3 else plain
            try_m[i] = minimum if k < 3 else smallest
            fit.largest_low[i] = try_m[i] - base[i]
        weighted_error(x, w, try_d, fit.largest_low, nmax, inverse, error)
        for i in range(scale.shape[0]):
            new, old, new_d, old_d, new_m, old_m = error[i], best[i], try_d[i], d[i], try_m[i], m[i]
            best[i] = new if new < old else old
            d[i] = new_d if new < old else old_d
            m[i] = new_m if new < old else old_m
    for i in range(scale.shape[0]):
        low[i] = m[i] - base[i]


@kernel
def _search_slab(values, importance, start, x, w, plan, fit, error, best, halves, levels):
    """Halves and levels of all blocks of a slab; the shapes are those of Pack."""
    n_blocks = halves.shape[2]
    loaded = -1
    for t in range(-(-values.shape[0] // n_blocks)):
        loaded = load_tile(values, importance, start, t * n_blocks, loaded, x, w)
        search(x, w, plan.nmax, plan.ends, plan.n_refine, _INFINITY, fit)
        _round_scales(x, w, plan.nmax, fit, error, best, halves[t, 0], halves[t, 1])
        find_levels(x, halves[t, 0], fit.low, plan.nmax, fit.inverse, fit.offset, levels[t])


def plain_encoder(nmax: np.float32, high_at: int, levels_at: int) -> Callable[[F32Array, U8Array], None]:
    """Encoder of values (n_blocks, 32) into out (n_blocks, type_size) without importance or search.

    llama.cpp does not search here either and encodes a thousand million weights a second, more than tiles can be filled
    with: d = range / nmax, m = smallest, but levels are rounded for what is stored of them. Low bits of levels go to
    byte levels_at, bit 4 to byte high_at unless that is 0; both are constants of the compiled code.
    """

    @kernel
    def encode_plain(values, out):
        for block in range(values.shape[0]):
            x, stored = values[block], out[block]
            smallest, largest = x[0], x[0]
            for i in range(N):
                smallest = min(smallest, x[i])
                largest = max(largest, x[i])
            d, m = round_to_half((largest - smallest) / nmax), round_to_half(smallest)
            inverse = _ONE / d if d > _ZERO else _ZERO
            high = np.uint32(0)
            for i in range(16):
                l0 = np.int32(min(max(np.rint((x[i] - m) * inverse), _ZERO), nmax))
                l1 = np.int32(min(max(np.rint((x[i + 16] - m) * inverse), _ZERO), nmax))
                stored[levels_at + i] = np.uint8((l0 & 15) | ((l1 & 15) << 4))
                high |= np.uint32(np.uint32(l0 >> 4) * _BITS[i] + np.uint32(l1 >> 4) * _BITS[i + 16])
            if high_at > 0:
                for k in range(4):
                    stored[high_at + k] = np.uint8(high >> np.uint32(8 * k))
            store_half(d, stored, 0)
            store_half(m, stored, 2)

    return encode_plain


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
