"""The last part of a round of refinement: d and dmin of each block solved for, levels and codes held.

A block's values are d u + dmin v, u and v fixed (u = code values[level], v = -low): its part of (ŵ - w) H (ŵ - w)ᵀ is
a parabola in the two of them.

Knows halves, values and moments. Does not know types or bytes.
"""

import numpy as np

from quant.kernels.compiler import inner
from quant.kernels.halves import round_to_half
from quant.kernels.products import add_product


@inner
def solve_block_scales(rows, level, code, low, d, dmin, values, has_min, moments, sums, gradient):
    """d and dmin, each (n_rows, n_block) and halves, changed where that makes the row's error less, block by block.

    Of `rows` alone; levels and codes as `quant.refinement` describes them. sums (n_sub, n) of each sub-block's lines of
    moments (n, n); gradient (len(rows), n) is (ŵ - w) H and follows.
    """
    high, n, n_block = rows.shape[0], level.shape[1], d.shape[1]
    size, per = n // n_block, code.shape[1] // n_block
    u, v = np.empty((high, size), np.float32), np.zeros((high, per), np.float32)
    hu, hv = np.empty((high, n), np.float32), np.zeros((high, n), np.float32)
    for b in range(n_block):
        for i in range(high):
            _multiplied(level[rows[i]], code[rows[i]], low[rows[i]], values, b, u[i], v[i])
        hu[:] = 0
        add_product(u, moments[b * size : (b + 1) * size], 0, hu, 0, n)
        if has_min:
            hv[:] = 0
            add_product(v, sums[b * per : (b + 1) * per], 0, hv, 0, n)
        for i in range(high):
            _solve(u[i], v[i], d[rows[i]], dmin[rows[i]], b, has_min, hu[i], hv[i], gradient[i])


@inner
def _multiplied(level, code, low, values, b, u, v):
    """Of block b, u (size,) and v (n_sub,), which is the same in all of a sub-block."""
    size, per = u.shape[0], v.shape[0]
    wide = size // per
    for s in range(per):
        v[s] = -low[b * per + s]
        scale = np.float32(code[b * per + s])
        for j in range(s * wide, (s + 1) * wide):
            u[j] = scale * values[level[b * size + j]]


@inner
def _solve(u, v, d, dmin, b, has_min, hu, hv, gradient):
    """One row's block: the normal equations, rounded to what can be stored."""
    uu, uv, vv, ug, vg = 0.0, 0.0, 0.0, 0.0, 0.0
    size, first = u.shape[0], b * u.shape[0]
    wide = size // v.shape[0]
    for s in range(v.shape[0]):
        of_hu, of_hv, of_gradient = 0.0, 0.0, 0.0
        for j in range(s * wide, (s + 1) * wide):
            uu += float(u[j]) * float(hu[first + j])
            ug += float(u[j]) * float(gradient[first + j])
            if has_min:
                of_hu += float(hu[first + j])
                of_hv += float(hv[first + j])
                of_gradient += float(gradient[first + j])
        uv += v[s] * of_hu
        vv += v[s] * of_hv
        vg += v[s] * of_gradient
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
