"""The loop that chooses a sub-block's scale, minimum and levels together, all other columns of its row held.

Where the row's error is least for the columns of a sub-block follows from the gradient; the levels are rounded in order
towards it, as `quant.kernels.feedback` rounds a whole row. Knows codes, levels, moments. Does not know types or bytes.
"""

import numpy as np

from quant.kernels.compiler import inner, kernel
from quant.kernels.feedback import between, of_sub_block

WORTH = np.float32(0.9999)  # of a sub-block's error: a smaller gain may be rounding
LANES = 32  # pairs of codes that are tried at once: fewer take as long


@kernel
def factor_blocks(moments, factor):
    """factor (n_block, size, size): of each diagonal block of moments (n, n) D on the diagonal, A above it, Aᵀ below,
    with the block = A D Aᵀ and A unit upper triangular."""
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
                factor[b, j, i] = factor[b, i, j]
            factor[b, j, j] = h[j, j]


@inner
def _least(gradient, now, factor, target):
    """target (size,), where the row's error would be least with all other columns held: now - (A D Aᵀ)⁻¹ gradient."""
    size = now.shape[0]
    for j in range(size):
        target[j] = -gradient[j]
    for j in range(size - 1, 0, -1):
        y, f = target[j], factor[j]
        for i in range(j):
            target[i] -= f[i] * y
    for j in range(size):
        target[j] /= factor[j, j]
    for j in range(size - 1):
        y, f = target[j], factor[j]
        for k in range(j + 1, size):
            target[k] -= f[k] * y
    for j in range(size):
        target[j] += now[j]


@inner
def _value(target, now, factor, error):
    """(target - now) A D Aᵀ (target - now)ᵀ; `error` (size,) is used up."""
    size = now.shape[0]
    for j in range(size):
        error[j] = target[j] - now[j]
    total = np.float32(0)
    for i in range(size):
        step, f = target[i] - now[i], factor[i]
        total += f[i] * error[i] * error[i]
        for j in range(i + 1, size):
            error[j] += step * f[j]
    return total


@inner
def _least_of(total):
    """total.min(), in a form that costs less in the loop around it."""
    least = total[0]
    for i in range(1, total.shape[0]):
        least = min(least, total[i])
    return least


@inner
def _choose(x, inverse, offset, values, at, chosen):
    """chosen (n,): the level nearest to each x; `at` (n,) is used up."""
    n = x.shape[0]
    for i in range(n):
        at[i] = (x[i] - offset[i]) * inverse[i]
        chosen[i] = np.float32(0)
    for k in range(values.shape[0] - 1):
        edge = between(values, k)
        for i in range(n):
            chosen[i] += np.float32(1) if at[i] > edge else np.float32(0)


@inner
def _round_lanes(target, scale, inverse, offset, values, factor, most, left, level, total, step):
    """Round the columns of a sub-block in order, for n pairs of a scale and an offset (n,) at once.

    inverse (n,) is that of scale, or 0
    level (size, n) and total (n,), the errors, are filled; left (size, n) and step (n,) are used up.
    Ends early where all errors are `most` already. Returns whether it came to the end.
    """
    size, n = left.shape
    base, last = values[0], np.float32(values.shape[0] - 1)
    even = values[-1] - base == last  # levels are one apart: the nearest need not be searched
    for i in range(n):
        total[i] = np.float32(0)
    for j in range(size):
        for i in range(n):
            left[j, i] = target[j]
    for j in range(size):
        row, chosen, f, wanted = left[j], level[j], factor[j], target[j]
        cost = f[j]
        if not even:
            _choose(row, inverse, offset, values, step, chosen)
        for i in range(n):
            x = row[i]
            if even:
                l = (x - offset[i]) * inverse[i] - base + np.float32(0.5)
                l = np.float32(np.int32(min(max(l, np.float32(0)), last)))
                q = scale[i] * (base + l) + offset[i]
                chosen[i] = l
            else:
                q = scale[i] * values[int(chosen[i])] + offset[i]
            step[i] = wanted - q
            total[i] += cost * (x - q) * (x - q)
        for k in range(j + 1, size):
            behind, share = left[k], f[k]
            for i in range(n):
                behind[i] += step[i] * share
        if j % 8 == 7 and not _least_of(total) < most:
            return False
    return True


@inner
def _near(code, i, least, greatest):
    """The i-th of code, code + 1, code - 1, code + 2, …; the nearest end where that lies outside."""
    step = (i + 1) // 2 if i % 2 else -(i // 2)
    return min(max(code + step, least), greatest)


@inner
def recode(rows, level, code, low, d, dmin, values, bounds, factor, gradient, moments):
    """One pass over sub-blocks: of each, the code of its scale, that of its minimum and its levels are chosen together,
    all else held, among LANES pairs of codes next to its own.

    level (n_rows, n), code and low (n_rows, n_sub) change, of `rows` alone; gradient (len(rows), n) is (ŵ - w) H and
    follows
    d, dmin  (n_rows, n_block): scale = d code, offset = -dmin low
    bounds   (4,) least and greatest code, least and greatest low
    factor   (n_sub, size, size) of `factor_blocks`; empty where codes cannot change
    """
    n_sub, size = factor.shape[0], factor.shape[1]
    if n_sub == 0:
        return
    per = n_sub // d.shape[1]
    now, target, spent = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    left, levels = np.empty((size, LANES), np.float32), np.empty((size, LANES), np.float32)
    scales, inverses, offsets = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    total, step = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    n_low = 5 if bounds[3] > bounds[2] else 1
    for i_row in range(rows.shape[0]):
        r, row = rows[i_row], gradient[i_row]
        for b in range(n_sub):
            first, f = b * size, factor[b]
            dr, mr = d[r, b // per], dmin[r, b // per]
            scale, offset = of_sub_block(code[r], low[r], d[r], dmin[r], b)
            for j in range(size):
                now[j] = scale * values[level[r, first + j]] + offset
            _least(row[first : first + size], now, f, target)
            least = WORTH * _value(target, now, f, spent)
            for i in range(LANES):
                scales[i] = dr * np.float32(_near(code[r, b], i // n_low, bounds[0], bounds[1]))
                inverses[i] = np.float32(0) if scales[i] == 0 else np.float32(1) / scales[i]
                offsets[i] = -mr * np.float32(_near(low[r, b], i % n_low, bounds[2], bounds[3]))
            if not _round_lanes(target, scales, inverses, offsets, values, f, least, left, levels, total, step):
                continue
            lane = np.argmin(total)
            code[r, b] = _near(code[r, b], lane // n_low, bounds[0], bounds[1])
            low[r, b] = _near(low[r, b], lane % n_low, bounds[2], bounds[3])
            for j in range(size):
                l = int(levels[j, lane])
                level[r, first + j] = l
                change = scales[lane] * values[l] + offsets[lane] - now[j]
                if change == 0:
                    continue
                h = moments[first + j]
                for k in range(row.shape[0]):
                    row[k] += change * h[k]
