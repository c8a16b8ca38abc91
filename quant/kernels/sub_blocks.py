"""The loop that chooses a sub-block's scale, minimum and levels together, all other columns of its row held.

Where the row's error is least for the columns of a sub-block follows from the gradient; the levels are rounded in order
towards it, as `quant.kernels.feedback` rounds a whole row. Knows codes, levels, moments. Does not know types or bytes.
"""

import numpy as np

from quant.kernels.compiler import inner, kernel
from quant.kernels.feedback import nearest_level

WORTH = np.float32(0.9999)  # of a sub-block's error: a smaller gain may be rounding


@kernel
def factor_blocks(moments, factor):
    """factor (n_block, size, size): of each diagonal block of moments (n, n) D on the diagonal and A above it, with the
    block = A D Aᵀ and A unit upper triangular."""
    n_block, size = factor.shape[0], factor.shape[1]
    h = np.empty((size, size))
    for b in range(n_block):
        first = b * size
        for i in range(size):
            for j in range(size):
                h[i, j] = moments[first + i, first + j]
        for j in range(size - 1, -1, -1):
            for i in range(j):
                a = h[i, j] / h[j, j]
                for k in range(i + 1):
                    h[k, i] -= a * h[k, j]
            for i in range(j):
                factor[b, i, j] = h[i, j] / h[j, j]
            factor[b, j, j] = h[j, j]


@inner
def _least(gradient, now, factor, target):
    """target (size,), where the row's error would be least with all other columns held: now - (A D Aᵀ)⁻¹ gradient."""
    size = now.shape[0]
    for j in range(size - 1, -1, -1):
        y = -gradient[j]
        for k in range(j + 1, size):
            y -= factor[j, k] * target[k]
        target[j] = y
    for j in range(size):
        target[j] /= factor[j, j]
    for j in range(size):
        for k in range(j + 1, size):
            target[k] -= factor[j, k] * target[j]
    for j in range(size):
        target[j] += now[j]


@inner
def _round_block(target, left, scale, offset, values, even, factor, most, level):
    """Round the columns of a sub-block in order; its error, or more than `most` as soon as it is that much.

    even  whether levels are one apart, so that the nearest need not be searched
    """
    size = target.shape[0]
    for j in range(size):
        left[j] = target[j]
    total = np.float32(0)
    inverse = np.float32(0) if scale == 0 else np.float32(1) / scale
    base, last = values[0], values.shape[0] - 1
    for j in range(size):
        x = left[j]
        if even:
            l = min(max(int((x - offset) * inverse - base + np.float32(0.5)), 0), last)
        else:
            l = nearest_level(x, scale, offset, values)
        level[j] = l
        q = scale * values[l] + offset
        e = x - q
        total += factor[j, j] * e * e
        if total >= most:
            return total
        e = target[j] - q
        f = factor[j]
        for k in range(j + 1, size):
            left[k] += e * f[k]
    return total


@inner
def _value(target, now, factor):
    """(target - now) A D Aᵀ (target - now)ᵀ."""
    size = now.shape[0]
    total = np.float32(0)
    for j in range(size):
        e = target[j] - now[j]
        for k in range(j):
            e += (target[k] - now[k]) * factor[k, j]
        total += factor[j, j] * e * e
    return total


@inner
def _search(target, left, tried, best, d, dmin, code, low, bounds, values, factor, least):
    """The codes next to `code` and `low` with the least error below `least`, its levels in `best`; whether any."""
    even = values[-1] - values[0] == values.shape[0] - 1
    found, chosen, lowest = False, code, low
    for c in range(max(code - 1, bounds[0]), min(code + 1, bounds[1]) + 1):
        for m in range(max(low - 1, bounds[2]), min(low + 1, bounds[3]) + 1):
            scale, offset = d * np.float32(c), -dmin * np.float32(m)
            error = _round_block(target, left, scale, offset, values, even, factor, least, tried)
            if error < least:
                least, found, chosen, lowest = error, True, c, m
                for j in range(best.shape[0]):
                    best[j] = tried[j]
    return found, chosen, lowest


@kernel
def recode(level, code, low, d, dmin, values, bounds, factor, gradient, moments):
    """One pass over sub-blocks: of each, the code of its scale, that of its minimum and its levels are chosen together,
    all else held, among the codes next to its own.

    level (n_rows, n), code and low (n_rows, n_sub) change, gradient (n_rows, n) is (ŵ - w) H and follows
    d, dmin  (n_rows, n_block): scale = d code, offset = -dmin low
    bounds   (4,) least and greatest code, least and greatest low
    factor   (n_sub, size, size) of `factor_blocks`
    """
    n_sub, size = factor.shape[0], factor.shape[1]
    per = n_sub // d.shape[1]
    now, target, left = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    tried, best = np.empty(size, np.uint8), np.empty(size, np.uint8)
    for r in range(level.shape[0]):
        row = gradient[r]
        for b in range(n_sub):
            first, f = b * size, factor[b]
            dr, mr = d[r, b // per], dmin[r, b // per]
            scale, offset = dr * np.float32(code[r, b]), -mr * np.float32(low[r, b])
            for j in range(size):
                now[j] = scale * values[level[r, first + j]] + offset
            _least(row[first : first + size], now, f, target)
            least = WORTH * _value(target, now, f)
            found, c, m = _search(target, left, tried, best, dr, mr, code[r, b], low[r, b], bounds, values, f, least)
            if not found:
                continue
            code[r, b], low[r, b] = c, m
            scale, offset = dr * np.float32(c), -mr * np.float32(m)
            for j in range(size):
                level[r, first + j] = best[j]
                step = scale * values[best[j]] + offset - now[j]
                if step == 0:
                    continue
                h = moments[first + j]
                for k in range(row.shape[0]):
                    row[k] += step * h[k]
