"""The two loops of error feedback: columns in order, and single levels with all others held.

Knows scales, offsets, values and triangular factors. Does not know types or bytes.
"""

import numpy as np

from quant.kernels.compiler import inner, kernel


@inner
def nearest(x, values):
    """Index of the value nearest to x; values ascend."""
    n = values.shape[0]
    if values[n - 1] - values[0] == n - 1:  # one apart: the nearest need not be searched
        at = x - values[0] + np.float32(0.5)
        return int(min(at, np.float32(n - 1))) if at > 0 else 0
    l = 0
    for k in range(n - 1):  # as one vector, where halving would be branches that nobody can foresee
        l += x > between(values, k)
    return l


@inner
def between(values, k):
    """Where the nearest value changes from the k-th to the next."""
    return np.float32(0.5) * (values[k] + values[k + 1])


@inner
def nearest_level(x, scale, offset, values):
    """Level whose value scale * values[level] + offset is nearest to x."""
    if scale == 0:
        return 0
    return nearest((x - offset) / scale, values)


@kernel
def invert_factor(g, inverse):
    """g (n, n) symmetric, positive: the upper triangle becomes C with g = CᵀC; `inverse`, zeros, becomes C⁻¹."""
    n = g.shape[0]
    for k in range(n):
        line = g[k, k:]  # views from 0 on: loops over them go as vectors
        root = line[0] ** 0.5
        for j in range(n - k):
            line[j] /= root
        for i in range(k + 1, n):
            _take_away(g[k, i], g[k, i:], g[i, i:])
    for i in range(n - 1, -1, -1):
        target = inverse[i]
        target[i] = 1.0
        for k in range(i + 1, n):
            _take_away(g[i, k], inverse[k, k:], target[k:])
        for j in range(i, n):
            target[j] /= g[i, i]


@inner
def _take_away(factor, line, target):
    for j in range(target.shape[0]):
        target[j] -= factor * line[j]


@kernel
def row_dots(a, b, out):
    """out (n_rows,) = Σ_j a[r, j] b[r, j], in float64."""
    for r in range(a.shape[0]):
        total = 0.0
        for j in range(a.shape[1]):
            total += float(a[r, j]) * float(b[r, j])
        out[r] = total


@kernel
def round_columns(w, left, scale, offset, values, factor, level, error):
    """Round columns in order. w (n_rows, n); left, what it is after the columns before were made good, is used up;
    level and error, w less what is stored, are filled; factor (n, n) counts above its diagonal."""
    n_rows, n = w.shape
    for r in range(n_rows):
        row = left[r]
        for j in range(n):
            l = nearest_level(row[j], scale[r, j], offset[r, j], values)
            level[r, j] = l
            e = w[r, j] - (scale[r, j] * values[l] + offset[r, j])
            error[r, j] = e
            behind, f = row[j + 1 :], factor[j, j + 1 :]  # views from 0 on: loops over them go as vectors
            for k in range(behind.shape[0]):
                behind[k] += e * f[k]


@inner
def move_levels(rows, level, code, low, d, dmin, values, gradient, moments, moved):
    """One pass of moving each level to where the row's quadratic error is least with the others held.

    level (n_rows, n) changes, of `rows` alone; scale = d code and offset = -dmin low of a sub-block, see
    `quant.refinement`; gradient (len(rows), n) is (ŵ - w) H and follows; moved (len(rows),) counts on.
    """
    n, n_sub = level.shape[1], code.shape[1]
    size = n // n_sub
    for i in range(rows.shape[0]):
        r, g = rows[i], gradient[i]
        for s in range(n_sub):
            scale, offset = of_sub_block(code[r], low[r], d[r], dmin[r], s)
            for j in range(s * size, (s + 1) * size):
                now = scale * values[level[r, j]] + offset
                l = nearest_level(now - g[j] / moments[j, j], scale, offset, values)
                if l == level[r, j]:
                    continue
                step = scale * values[l] + offset - now
                if step * (2 * g[j] + step * moments[j, j]) >= 0:
                    continue
                level[r, j] = l
                moved[i] += 1
                h = moments[j]
                for k in range(n):
                    g[k] += step * h[k]


@inner
def of_sub_block(code, low, d, dmin, s):
    """Scale and offset of sub-block s of a row, whose codes are (n_sub,), d and dmin (n_block,)."""
    b = s // (code.shape[0] // d.shape[0])
    return d[b] * np.float32(code[s]), -dmin[b] * np.float32(low[s])
