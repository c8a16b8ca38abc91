"""Scale and minimum of sub-blocks: x̂ = scale · l + low, l in 0..nmax. What Q2_K, Q4_K, Q5_K, Q4_1 and Q5_1 share.

Knows tiles (see tile.py) and lanes. Does not know how scales are stored: `superblock.py` does.

The weighted error of given levels l is quadratic in (scale, low), so it needs no second look at the weights:

      Σw(x - s·l - b)² = Σwx² - gain,   gain = s(2·Σwlx - s·Σwl² - 2b·Σwl) + b(2·Σwx - b·Σw)

One pass over the tile gives Σwl, Σwl², Σwlx for the levels of one candidate; the best scale and low for these levels
follow in closed form. The search first moves every lane so that its smallest weight (or 0, where minima are stored
unsigned) becomes 0: weights far from 0 would otherwise leave the gain without digits. `low` is relative to that base.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.kernels.compiler import inner
from quant.kernels.tile import LARGEST

F32Array = NDArray[np.float32]

_ZERO = np.float32(0)
_ONE = np.float32(1)
_TWO = np.float32(2)
_SINGULAR = np.float32(1e-5)  # levels of a lane are all alike: its low cannot be told from its scale


class AffineFit(NamedTuple):
    """Best known fit of every lane, all (lanes,) float32, and room for the next candidate."""

    scale: F32Array
    low: F32Array
    gain: F32Array
    base: F32Array
    width: F32Array
    largest_low: F32Array
    sum_w: F32Array
    sum_x: F32Array
    inverse: F32Array
    offset: F32Array
    sum_l: F32Array
    sum_l2: F32Array
    sum_xl: F32Array


def empty_fit(lanes: int) -> AffineFit:
    return AffineFit(*(np.empty(lanes, dtype=np.float32) for _ in AffineFit._fields))


def search_ends(nmax: np.float32, below: list[float], above: list[float]) -> F32Array:
    """Levels to try for the smallest and the largest weight, every pair of -below and nmax + above, (n_ends, 2)."""
    return np.array([(-first, nmax + last) for first in below for last in above], dtype=np.float32)


@inner
def _level(x, inverse, offset, nmax):
    return min(max(np.rint(x * inverse + offset), _ZERO), nmax)


@inner
def level_sums(x, w, inverse, offset, nmax, sum_l, sum_l2, sum_xl):
    """Σwl, Σwl², Σwlx of l = clamp(round(x · inverse + offset)). Four rows a loop: sums stay in registers longer."""
    sum_l[:] = _ZERO
    sum_l2[:] = _ZERO
    sum_xl[:] = _ZERO
    for j in range(0, x.shape[0], 4):
        x0, x1, x2, x3 = x[j], x[j + 1], x[j + 2], x[j + 3]
        w0, w1, w2, w3 = w[j], w[j + 1], w[j + 2], w[j + 3]
        for i in range(sum_l.shape[0]):
            l0 = _level(x0[i], inverse[i], offset[i], nmax)
            l1 = _level(x1[i], inverse[i], offset[i], nmax)
            l2 = _level(x2[i], inverse[i], offset[i], nmax)
            l3 = _level(x3[i], inverse[i], offset[i], nmax)
            wl0, wl1, wl2, wl3 = w0[i] * l0, w1[i] * l1, w2[i] * l2, w3[i] * l3
            sum_l[i] += (wl0 + wl1) + (wl2 + wl3)
            sum_l2[i] += (wl0 * l0 + wl1 * l1) + (wl2 * l2 + wl3 * l3)
            sum_xl[i] += (wl0 * x0[i] + wl1 * x1[i]) + (wl2 * x2[i] + wl3 * x3[i])


@inner
def weighted_error(x, w, scale, low, nmax, inverse, error):
    """Σw(x - x̂)² of every lane when levels are the nearest ones of (scale, low); scale 0 means x̂ = low."""
    for i in range(error.shape[0]):
        inverse[i] = _ONE / scale[i] if scale[i] != _ZERO else _ZERO
    error[:] = _ZERO
    for j in range(0, x.shape[0], 4):
        x0, x1, x2, x3 = x[j], x[j + 1], x[j + 2], x[j + 3]
        w0, w1, w2, w3 = w[j], w[j + 1], w[j + 2], w[j + 3]
        for i in range(error.shape[0]):
            s, b, inv = scale[i], low[i], inverse[i]
            y0, y1, y2, y3 = x0[i] - b, x1[i] - b, x2[i] - b, x3[i] - b
            e0 = y0 - s * min(max(np.rint(y0 * inv), _ZERO), nmax)
            e1 = y1 - s * min(max(np.rint(y1 * inv), _ZERO), nmax)
            e2 = y2 - s * min(max(np.rint(y2 * inv), _ZERO), nmax)
            e3 = y3 - s * min(max(np.rint(y3 * inv), _ZERO), nmax)
            error[i] += (w0[i] * e0 * e0 + w1[i] * e1 * e1) + (w2[i] * e2 * e2 + w3[i] * e3 * e3)


@inner
def _start(x, w, largest_base, fit):
    """Move every lane to its base, sum without levels, and fit level 0 everywhere: low = weighted mean if allowed."""
    base, width, sum_w, sum_x, largest_low = fit.base, fit.width, fit.sum_w, fit.sum_x, fit.largest_low
    base[:] = largest_base
    for j in range(x.shape[0]):
        xj = x[j]
        for i in range(base.shape[0]):
            base[i] = min(base[i], max(xj[i], -LARGEST))
    width[:] = _ZERO
    sum_w[:] = _ZERO
    sum_x[:] = _ZERO
    for j in range(x.shape[0]):
        xj, wj = x[j], w[j]
        for i in range(base.shape[0]):
            y = max(min(xj[i], LARGEST) - base[i], _ZERO)
            xj[i] = y
            sum_w[i] += wj[i]
            sum_x[i] += wj[i] * y
            width[i] = max(width[i], y)
    scale, low, gain = fit.scale, fit.low, fit.gain
    scale[:] = _ZERO
    for i in range(low.shape[0]):
        highest = largest_base - base[i]
        flat = min(sum_x[i] / sum_w[i], highest)
        largest_low[i] = highest
        low[i] = flat
        gain[i] = flat * (_TWO * sum_x[i] - flat * sum_w[i])


@inner
def best_fit(sw, sx, sl, sl2, sxl, largest_low):
    """Scale and low that suit given levels best, low at most largest_low. No levels above 0: scale is not finite."""
    determinant = sw * sl2 - sl * sl
    low = (sl2 * sx - sl * sxl) / determinant
    low = min(low if determinant > _SINGULAR * sw * sl2 else _ZERO, largest_low)
    return (sxl - low * sl) / sl2, low


@inner
def gain_of(scale, low, sw, sx, sl, sl2, sxl):
    """What (scale, low) takes off Σwx² for given levels."""
    return scale * (_TWO * sxl - scale * sl2 - _TWO * low * sl) + low * (_TWO * sx - low * sw)


@inner
def _accept(fit):
    """Best (scale, low) for the levels just summed; kept where it gains more than the best so far."""
    best_scale, best_low, best_gain, largest_low = fit.scale, fit.low, fit.gain, fit.largest_low
    sum_w, sum_x, sum_l, sum_l2, sum_xl = fit.sum_w, fit.sum_x, fit.sum_l, fit.sum_l2, fit.sum_xl
    for i in range(best_scale.shape[0]):
        old_scale, old_low, old_gain = best_scale[i], best_low[i], best_gain[i]
        scale, low = best_fit(sum_w[i], sum_x[i], sum_l[i], sum_l2[i], sum_xl[i], largest_low[i])
        gain = gain_of(scale, low, sum_w[i], sum_x[i], sum_l[i], sum_l2[i], sum_xl[i])
        better = (scale > _ZERO) & (gain > old_gain)
        best_scale[i] = scale if better else old_scale
        best_low[i] = low if better else old_low
        best_gain[i] = gain if better else old_gain


@inner
def invert(scale, low, inverse, offset):
    """inverse and offset of `level_sums` for a given fit; scale 0 gives level 0 everywhere."""
    for i in range(scale.shape[0]):
        inv = _ONE / scale[i] if scale[i] != _ZERO else _ZERO
        inverse[i] = inv
        offset[i] = -low[i] * inv


@inner
def search(x, w, nmax, ends, n_refine, largest_base, fit):
    """Scale and low of every lane; x is moved to each lane's base.

    ends (n_ends, 2): levels to try for the smallest and for the largest weight, real numbers around 0 and nmax (outside
    of 0..nmax the weight is clipped). Each try is fitted in closed form; the best fit is then rounded again n_refine
    times. largest_base is 0 where minima are stored unsigned, else +inf.
    """
    _start(x, w, largest_base, fit)
    width, inverse, offset = fit.width, fit.inverse, fit.offset
    for k in range(ends.shape[0]):
        first, span = ends[k, 0], ends[k, 1] - ends[k, 0]
        for i in range(inverse.shape[0]):
            inverse[i] = span / width[i] if width[i] > _ZERO else _ZERO
            offset[i] = first
        level_sums(x, w, inverse, offset, nmax, fit.sum_l, fit.sum_l2, fit.sum_xl)
        _accept(fit)
    for _ in range(n_refine):
        invert(fit.scale, fit.low, inverse, offset)
        level_sums(x, w, inverse, offset, nmax, fit.sum_l, fit.sum_l2, fit.sum_xl)
        _accept(fit)


@inner
def find_levels(x, scale, low, nmax, inverse, offset, level):
    """level (n, lanes) uint8: the nearest levels of (scale, low), counted from the base as x is."""
    invert(scale, low, inverse, offset)
    for j in range(x.shape[0]):
        xj, lj = x[j], level[j]
        for i in range(scale.shape[0]):
            y = (xj[i] - low[i]) * inverse[i]
            lj[i] = np.uint8(np.int32(min(max(np.rint(y), _ZERO), nmax)))
