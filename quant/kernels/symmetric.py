"""Scale of sub-blocks without minimum: x̂ = scale · l, l in lowest..highest. What Q3_K, Q6_K, Q8_0, Q4_0, Q5_0 share.

Knows tiles (see tile.py) and lanes. Does not know how scales are stored: `symmetric_blocks.py` does.

For given levels the best scale is Σwlx / Σwl², and the squared error is then Σwx² - (Σwlx)² / Σwl²: one pass over the
tile prices a candidate. A scale may be negative: levels reach one further down than up, and the largest weight of a
sub-block is best served by the longer side.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.kernels import nonlinear
from quant.kernels.compiler import inner
from quant.kernels.tile import LARGEST

F32Array = NDArray[np.float32]

_ZERO = np.float32(0)
_ONE = np.float32(1)
_TINY = np.float32(1e-30)


class Levels(NamedTuple):
    """The integers lowest..highest, or the sixteen uneven values of nonlinear.py between these bounds."""

    lowest: np.float32
    highest: np.float32
    nonlinear: bool


class SymmetricFit(NamedTuple):
    """Best known scale of every lane and room for the next candidate, all (lanes,) float32."""

    scale: F32Array
    gain: F32Array
    extreme: F32Array
    inverse: F32Array
    sum_l2: F32Array
    sum_xl: F32Array


def empty_fit(lanes: int) -> SymmetricFit:
    return SymmetricFit(*(np.empty(lanes, dtype=np.float32) for _ in SymmetricFit._fields))


def search_ends(levels: Levels, shares: list[float], other_shares: list[float]) -> F32Array:
    """Levels to try for the extreme weight: shares of the lowest level, then of the highest (the sign turns)."""
    ends = [levels.lowest * share for share in shares] + [levels.highest * share for share in other_shares]
    return np.array(ends, dtype=np.float32)


@inner
def level_sums(x, w, inverse, levels, sum_l2, sum_xl):
    """Σwl² and Σwlx of every lane, l the level nearest to x · inverse."""
    if levels.nonlinear:
        nonlinear.level_sums(x, w, inverse, sum_l2, sum_xl)
    else:
        _even_level_sums(x, w, inverse, levels.lowest, levels.highest, sum_l2, sum_xl)


@inner
def _even_level_sums(x, w, inverse, lowest, highest, sum_l2, sum_xl):
    """As level_sums, l = clamp(round(x · inverse)). Four rows a loop: sums stay in registers longer."""
    sum_l2[:] = _ZERO
    sum_xl[:] = _ZERO
    for j in range(0, x.shape[0], 4):
        x0, x1, x2, x3 = x[j], x[j + 1], x[j + 2], x[j + 3]
        w0, w1, w2, w3 = w[j], w[j + 1], w[j + 2], w[j + 3]
        for i in range(sum_l2.shape[0]):
            inv = inverse[i]
            l0 = min(max(np.rint(x0[i] * inv), lowest), highest)
            l1 = min(max(np.rint(x1[i] * inv), lowest), highest)
            l2 = min(max(np.rint(x2[i] * inv), lowest), highest)
            l3 = min(max(np.rint(x3[i] * inv), lowest), highest)
            wl0, wl1, wl2, wl3 = w0[i] * l0, w1[i] * l1, w2[i] * l2, w3[i] * l3
            sum_l2[i] += (wl0 * l0 + wl1 * l1) + (wl2 * l2 + wl3 * l3)
            sum_xl[i] += (wl0 * x0[i] + wl1 * x1[i]) + (wl2 * x2[i] + wl3 * x3[i])


@inner
def weighted_error(x, w, scale, levels, inverse, error):
    """Σw(x - x̂)² of every lane when levels are the nearest ones of `scale`; scale 0 means x̂ = 0."""
    invert(scale, inverse)
    if levels.nonlinear:
        nonlinear.weighted_error(x, w, scale, inverse, error)
    else:
        _even_weighted_error(x, w, scale, inverse, levels.lowest, levels.highest, error)


@inner
def _even_weighted_error(x, w, scale, inverse, lowest, highest, error):
    error[:] = _ZERO
    for j in range(0, x.shape[0], 4):
        x0, x1, x2, x3 = x[j], x[j + 1], x[j + 2], x[j + 3]
        w0, w1, w2, w3 = w[j], w[j + 1], w[j + 2], w[j + 3]
        for i in range(error.shape[0]):
            s, inv = scale[i], inverse[i]
            e0 = x0[i] - s * min(max(np.rint(x0[i] * inv), lowest), highest)
            e1 = x1[i] - s * min(max(np.rint(x1[i] * inv), lowest), highest)
            e2 = x2[i] - s * min(max(np.rint(x2[i] * inv), lowest), highest)
            e3 = x3[i] - s * min(max(np.rint(x3[i] * inv), lowest), highest)
            error[i] += (w0[i] * e0 * e0 + w1[i] * e1 * e1) + (w2[i] * e2 * e2 + w3[i] * e3 * e3)


@inner
def _find_extremes(x, extreme):
    """The weight of largest magnitude of every lane, with its sign; limits what no type can store."""
    extreme[:] = _ZERO
    for j in range(x.shape[0]):
        xj = x[j]
        for i in range(extreme.shape[0]):
            new, old = min(max(xj[i], -LARGEST), LARGEST), extreme[i]
            xj[i] = new
            extreme[i] = new if abs(new) > abs(old) else old


@inner
def _accept(least, fit):
    """Best scale for the levels just summed; kept where it gains more than `least` times the best so far."""
    best_scale, best_gain, sum_l2, sum_xl = fit.scale, fit.gain, fit.sum_l2, fit.sum_xl
    for i in range(best_scale.shape[0]):
        old_scale, old_gain = best_scale[i], best_gain[i]
        scale = sum_xl[i] / max(sum_l2[i], _TINY)  # without levels both sums are 0
        gain = scale * sum_xl[i]
        better = gain > old_gain * least
        best_scale[i] = scale if better else old_scale
        best_gain[i] = gain if better else old_gain


@inner
def invert(scale, inverse):
    """1 / scale, and 0 where scale is 0."""
    for i in range(scale.shape[0]):
        inverse[i] = _ONE / scale[i] if scale[i] != _ZERO else _ZERO


@inner
def search(x, w, levels, ends, n_refine, least, fit):
    """Scale of every lane.

    Tries the inverse scales end / extreme, which put the extreme weight at level `end`, beyond the last level or short
    of it; each is fitted in closed form. Then rounds the best fit again n_refine times. A try replaces an earlier one
    when it gains `least` times as much, 1 or a little more: the first ends lead to the smallest scales.
    """
    extreme, inverse = fit.extreme, fit.inverse
    _find_extremes(x, extreme)
    fit.scale[:] = _ZERO
    fit.gain[:] = _ZERO
    for k in range(ends.shape[0]):
        end = ends[k]
        for i in range(extreme.shape[0]):
            inverse[i] = end / extreme[i] if extreme[i] != _ZERO else _ZERO
        level_sums(x, w, inverse, levels, fit.sum_l2, fit.sum_xl)
        _accept(least, fit)
    for _ in range(n_refine):
        invert(fit.scale, inverse)
        level_sums(x, w, inverse, levels, fit.sum_l2, fit.sum_xl)
        _accept(_ONE, fit)


@inner
def find_levels(x, scale, levels, inverse, level):
    """level (n, lanes) uint8: the nearest levels of `scale`, counted from the lowest, or table entries."""
    invert(scale, inverse)
    if levels.nonlinear:
        nonlinear.find_codes(x, inverse, level)
    else:
        lowest, highest = levels.lowest, levels.highest
        for j in range(x.shape[0]):
            xj, lj = x[j], level[j]
            for i in range(scale.shape[0]):
                lj[i] = np.uint8(np.int32(min(max(np.rint(xj[i] * inverse[i]), lowest), highest) - lowest))
