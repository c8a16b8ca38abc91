"""The last part of a round of refinement: d and dmin of each block solved for, levels and codes held.

A block's values are d u + dmin v, u and v fixed: its part of (ŵ - w) H (ŵ - w)ᵀ is a parabola in the two of them.

Knows halves, values and moments. Does not know types or bytes.
"""

import numpy as np

from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import round_to_half
from quant.kernels.products import add_product

_AT_ONCE = 32  # rows


@kernel
def solve_block_scales(u, v, d, dmin, has_min, moments, gradient):
    """d and dmin, each (n_rows, n_block) and halves, changed where that makes the row's error less, block by block.

    u, v (n_rows, n) of a tile's columns, v not looked at without has_min; moments (n, n); gradient (n_rows, n) is
    (ŵ - w) H and follows.
    """
    n_rows, n = u.shape
    n_block = d.shape[1]
    size = n // n_block
    own = np.empty((_AT_ONCE, size), np.float32)
    hu, hv = np.zeros((_AT_ONCE, n), np.float32), np.zeros((_AT_ONCE, n), np.float32)
    for first in range(0, n_rows, _AT_ONCE):
        high = min(_AT_ONCE, n_rows - first)
        for b in range(n_block):
            there = moments[b * size : (b + 1) * size]
            _through(u, first, high, b * size, there, own, hu)
            if has_min:
                _through(v, first, high, b * size, there, own, hv)
            for i in range(high):
                r = first + i
                _solve(u[r], v[r], d[r], dmin[r], b, size, has_min, hu[i], hv[i], gradient[r])


@inner
def _through(values, first, high, left, there, own, out):
    """Some rows of a block's values times its lines of the moments."""
    own[:high] = values[first : first + high, left : left + own.shape[1]]
    out[:high] = 0
    add_product(own[:high], there, 0, out, 0, out.shape[1])


@inner
def _solve(u, v, d, dmin, b, size, has_min, hu, hv, gradient):
    """One row's block: the normal equations, rounded to what can be stored."""
    uu, uv, vv, ug, vg = 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(b * size, (b + 1) * size):
        uu += float(u[j]) * float(hu[j])
        ug += float(u[j]) * float(gradient[j])
        if has_min:
            uv += float(v[j]) * float(hu[j])
            vv += float(v[j]) * float(hv[j])
            vg += float(v[j]) * float(gradient[j])
    step_d, step_m = 0.0, 0.0
    if not has_min:
        step_d = -ug / max(uu, 1e-30)
    elif uu * vv - uv * uv > 1e-9 * uu * vv:
        det = uu * vv - uv * uv
        step_d, step_m = (vg * uv - ug * vv) / det, (ug * uv - vg * uu) / det
    new_d = round_to_half(np.float32(d[b] + np.float32(step_d)))
    new_m = round_to_half(np.float32(dmin[b] + np.float32(step_m)))
    by_d, by_m = new_d - d[b], new_m - dmin[b]
    if 2.0 * (by_d * ug + by_m * vg) + by_d * (by_d * uu + 2.0 * by_m * uv) + by_m * by_m * vv >= 0:
        return
    d[b], dmin[b] = new_d, new_m
    for j in range(gradient.shape[0]):
        gradient[j] += by_d * hu[j]
    if has_min:
        for j in range(gradient.shape[0]):
            gradient[j] += by_m * hv[j]
