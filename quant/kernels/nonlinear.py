"""The sixteen uneven levels of IQ4_NL and IQ4_XS: x̂ = scale · VALUES[code].

Knows the table and the nearest entry. The searches are those of symmetric.py with these levels for integers.

The nearest value is the first one plus the steps whose midpoint lies below: fifteen comparisons without a branch or a
gather, which any SIMD unit does for all its lanes at once.

Source: ggml-common.h kvalues_iq4nl.
"""

import numpy as np

from quant.kernels.compiler import inner

VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32)
LOWEST, HIGHEST = VALUES[0], VALUES[-1]

_STEPS = np.diff(VALUES)
_MIDPOINTS = (VALUES[1:] + VALUES[:-1]) / np.float32(2)
_ZERO = np.float32(0)


@inner
def _nearest(y):
    value = LOWEST
    for k in range(15):
        value += _STEPS[k] if y > _MIDPOINTS[k] else _ZERO
    return value


@inner
def level_sums(x, w, inverse, sum_l2, sum_xl):
    """Σwl² and Σwlx of l = the value nearest to x · inverse."""
    sum_l2[:] = _ZERO
    sum_xl[:] = _ZERO
    for j in range(x.shape[0]):
        xj, wj = x[j], w[j]
        for i in range(sum_l2.shape[0]):
            l = _nearest(xj[i] * inverse[i])
            wl = wj[i] * l
            sum_l2[i] += wl * l
            sum_xl[i] += wl * xj[i]


@inner
def weighted_error(x, w, scale, inverse, error):
    """Σw(x - x̂)² of every lane when levels are the nearest values for `scale`, whose inverse is given."""
    error[:] = _ZERO
    for j in range(x.shape[0]):
        xj, wj = x[j], w[j]
        for i in range(error.shape[0]):
            e = xj[i] - scale[i] * _nearest(xj[i] * inverse[i])
            error[i] += wj[i] * e * e


@inner
def find_codes(x, inverse, code):
    """code (n, lanes) uint8: the entry of VALUES nearest to x · inverse."""
    for j in range(x.shape[0]):
        xj, cj = x[j], code[j]
        for i in range(inverse.shape[0]):
            y = xj[i] * inverse[i]
            entry = np.int32(0)
            for k in range(15):
                entry += np.int32(1) if y > _MIDPOINTS[k] else np.int32(0)
            cj[i] = np.uint8(entry)
