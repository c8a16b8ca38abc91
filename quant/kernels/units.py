"""The half `d` that a block's scales are stored in: scale ≈ d · code, code a small integer.

Knows lanes (lane = sub · n_blocks + block). Does not know weights or bytes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.kernels.compiler import inner
from quant.kernels.halves import round_to_half

F32Array = NDArray[np.float32]

TINY = np.float32(1e-30)  # stands for a scale of zero in a division; the smallest half is 6e-8

_ZERO = np.float32(0)
_ONE = np.float32(1)
_INFINITY = np.float32(np.inf)


class UnitSearch(NamedTuple):
    """Scratch of best_unit, all (n_blocks,) float32."""

    extreme: F32Array
    candidate: F32Array
    inverse: F32Array
    error: F32Array
    best: F32Array
    product: F32Array


def empty_unit_search(n_blocks: int) -> UnitSearch:
    return UnitSearch(*(np.empty(n_blocks, dtype=np.float32) for _ in UnitSearch._fields))


@inner
def spread_over_lanes(per_block, per_lane):
    """per_lane[lane] = value of the lane's block."""
    lanes = per_lane.reshape(-1, per_block.shape[0])  # (n_sub, n_blocks)
    for sub in range(lanes.shape[0]):
        for b in range(per_block.shape[0]):
            lanes[sub, b] = per_block[b]


@inner
def find_extreme(value, extreme):
    """The value of largest magnitude among each block's lanes, with its sign."""
    lanes = value.reshape(-1, extreme.shape[0])  # (n_sub, n_blocks)
    extreme[:] = _ZERO
    for sub in range(lanes.shape[0]):
        for b in range(extreme.shape[0]):
            new, old = lanes[sub, b], extreme[b]
            extreme[b] = new if abs(new) > abs(old) else old


@inner
def _fit_unit(v, above, below, lowest, highest, inverse, unit, sum_cc, sum_vc):
    """Codes of v · inverse; unit becomes the half that suits them best, inverse follows. The sums are scratch."""
    sum_cc[:] = _ZERO
    sum_vc[:] = _ZERO
    for sub in range(v.shape[0]):
        for b in range(unit.shape[0]):
            code = min(max(np.rint(v[sub, b] * inverse[b]), lowest), highest)
            x, a, c = v[sub, b], above[sub, b], below[sub, b]
            weight = a if unit[b] * code > x else c
            sum_cc[b] += weight * code * code
            sum_vc[b] += weight * code * x
    for b in range(unit.shape[0]):
        half = round_to_half(sum_vc[b] / sum_cc[b]) if sum_cc[b] > _ZERO else unit[b]
        unit[b] = half
        inverse[b] = _ONE / half if half != _ZERO else _ZERO


@inner
def best_unit(value, if_above, if_below, lowest, highest, end, spread, n_tries, search, unit):
    """The half for which codes lowest..highest represent `value` of every block best.

    The square of a miss weighs if_above where the stored value is the greater one, else if_below, per lane.
    Tries n_tries divisors of the extreme value within end ± spread, so that it may be clipped or codes left unused;
    each is fitted to the codes that it leads to.
    """
    extreme, candidate, inverse, error, best, product = search
    n_blocks = unit.shape[0]
    v, above, below = value.reshape(-1, n_blocks), if_above.reshape(-1, n_blocks), if_below.reshape(-1, n_blocks)
    find_extreme(value, extreme)
    best[:] = _INFINITY
    unit[:] = _ZERO
    for k in range(n_tries):
        divisor = end + spread * np.float32(2 * k - n_tries + 1) / np.float32(max(n_tries - 1, 1))
        for b in range(n_blocks):
            half = round_to_half(extreme[b] / divisor)
            candidate[b] = half
            inverse[b] = _ONE / half if half != _ZERO else _ZERO
        _fit_unit(v, above, below, lowest, highest, inverse, candidate, error, product)
        error[:] = _ZERO
        for sub in range(v.shape[0]):
            for b in range(n_blocks):
                miss = candidate[b] * min(max(np.rint(v[sub, b] * inverse[b]), lowest), highest) - v[sub, b]
                a, c = above[sub, b], below[sub, b]
                error[b] += (a if miss > _ZERO else c) * miss * miss
        for b in range(n_blocks):
            old_unit, old, new_unit, new = unit[b], best[b], candidate[b], error[b]
            unit[b] = new_unit if new < old else old_unit
            best[b] = new if new < old else old
