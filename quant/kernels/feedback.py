"""The two loops of error feedback: columns in order, and single levels with all others held.

Knows scales, offsets, values and triangular factors. Does not know types or bytes.
"""

from quant.kernels.compiler import inner, kernel


@inner
def nearest(x, values):
    """Index of the value nearest to x; values ascend."""
    n = values.shape[0]
    low, high = 0, n - 1
    while high - low > 1:
        middle = (low + high) // 2
        if values[middle] <= x:
            low = middle
        else:
            high = middle
    if x - values[low] <= values[high] - x:
        return low
    return high


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
        line = g[k]
        root = line[k] ** 0.5
        for j in range(k, n):
            line[j] /= root
        for i in range(k + 1, n):
            factor, below = line[i], g[i]
            for j in range(i, n):
                below[j] -= factor * line[j]
    for i in range(n - 1, -1, -1):
        target = inverse[i]
        target[i] = 1.0
        for k in range(i + 1, n):
            factor, line = g[i, k], inverse[k]
            for j in range(k, n):
                target[j] -= factor * line[j]
        for j in range(i, n):
            target[j] /= g[i, i]


@kernel
def add_product(a, b, out):
    """out (n_rows, n) += a (n_rows, m) @ b (m, n), each row summed in the same order whatever rows stand beside it.

    BLAS would be a third faster on large matrices, but its sums depend on the shape of the whole, and bytes must not.
    Eight lines of b at a time, as many columns as keep them in the nearest cache.
    """
    n_rows, m = a.shape
    n = b.shape[1]
    full = m - m % 8
    width = 2048 // b.itemsize
    for left in range(0, n, width):
        right = min(left + width, n)
        for k in range(0, full, 8):
            b0, b1, b2, b3 = b[k, left:right], b[k + 1, left:right], b[k + 2, left:right], b[k + 3, left:right]
            b4, b5, b6, b7 = b[k + 4, left:right], b[k + 5, left:right], b[k + 6, left:right], b[k + 7, left:right]
            for r in range(n_rows):
                target = out[r, left:right]
                p, q, s, t = a[r, k], a[r, k + 1], a[r, k + 2], a[r, k + 3]
                u, v, x, y = a[r, k + 4], a[r, k + 5], a[r, k + 6], a[r, k + 7]
                for j in range(right - left):
                    target[j] += (p * b0[j] + q * b1[j] + s * b2[j] + t * b3[j]) + (
                        u * b4[j] + v * b5[j] + x * b6[j] + y * b7[j]
                    )
        for k in range(full, m):
            for r in range(n_rows):
                for j in range(left, right):
                    out[r, j] += a[r, k] * b[k, j]


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
            f = factor[j]
            for k in range(j + 1, n):
                row[k] += e * f[k]


@kernel
def move_levels(level, scale, offset, values, gradient, moments, moved):
    """One pass of moving each level to where the row's quadratic error is least with the others held.

    level (n_rows, n) changes; gradient (n_rows, n) is (ŵ - w) H and follows; moved (n_rows,) counts on.
    """
    n_rows, n = level.shape
    for r in range(n_rows):
        g = gradient[r]
        for j in range(n):
            s = scale[r, j]
            now = s * values[level[r, j]] + offset[r, j]
            l = nearest_level(now - g[j] / moments[j, j], s, offset[r, j], values)
            if l == level[r, j]:
                continue
            step = s * values[l] + offset[r, j] - now
            if step * (2 * g[j] + step * moments[j, j]) >= 0:
                continue
            level[r, j] = l
            moved[r] += 1
            h = moments[j]
            for k in range(n):
                g[k] += step * h[k]


@kernel
def add_outer(a, b, out, line, first, n):
    """Lines [line, line + m) and columns [0, n) of out += aᵀ b[:, first : first + n], a (k, m), b (k, …). What is added
    to a line does not depend on the others.

    Tiles of 32 lines and 512 columns stay in the nearest cache while eight rows of a and b at a time are added.
    """
    n_rows, m = a.shape
    full = n_rows - n_rows % 8
    for top in range(0, m, 32):
        bottom = min(top + 32, m)
        for left in range(0, n, 512):
            right = min(left + 512, n)
            start, stop = first + left, first + right
            for k in range(0, full, 8):
                b0, b1, b2, b3 = b[k, start:stop], b[k + 1, start:stop], b[k + 2, start:stop], b[k + 3, start:stop]
                b4, b5, b6, b7 = b[k + 4, start:stop], b[k + 5, start:stop], b[k + 6, start:stop], b[k + 7, start:stop]
                for i in range(top, bottom):
                    target = out[line + i, left:right]
                    p, q, r, s = a[k, i], a[k + 1, i], a[k + 2, i], a[k + 3, i]
                    t, u, v, w = a[k + 4, i], a[k + 5, i], a[k + 6, i], a[k + 7, i]
                    for j in range(right - left):
                        target[j] += (p * b0[j] + q * b1[j] + r * b2[j] + s * b3[j]) + (
                            t * b4[j] + u * b5[j] + v * b6[j] + w * b7[j]
                        )
            for k in range(full, n_rows):
                for i in range(top, bottom):
                    for j in range(left, right):
                        out[line + i, j] += a[k, i] * b[k, first + j]
