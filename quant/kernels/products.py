"""The product of two matrices, the loop that error feedback spends most of its time in.

Not BLAS: its sums depend on the shape of the whole, and bytes must not; and its threads go on spinning against those of
the model. Knows arrays alone.
"""

import numpy as np

from quant.kernels.compiler import inner, kernel

_WIDTH = 512  # columns of a panel: four lines of it and of the sums lie in the nearest cache
_DEPTH = 128  # lines of a panel, which lies in the next one
_1, _2, _3 = np.uint64(_WIDTH), np.uint64(2 * _WIDTH), np.uint64(3 * _WIDTH)


@kernel
def add_product(a, b, first, out, line, n):
    """Lines [line, line + n_rows) and columns [0, n) of out += a (n_rows, m) @ b[:, first : first + n], b (m, …).

    Each number is summed in the order of m, one term after the other, whatever stands beside it.
    """
    n_rows, m = a.shape
    panel = np.empty(min(_DEPTH, m + -m % 4) * _WIDTH, a.dtype)
    sums = np.empty(4 * _WIDTH, a.dtype)
    for left in range(0, n, _WIDTH):
        wide = min(_WIDTH, n - left)
        for top in range(0, m, _DEPTH):
            depth = min(_DEPTH, m - top)
            _lay_out(b, top, depth, first + left, wide, panel)
            for r in range(0, n_rows, 4):
                high = min(4, n_rows - r)
                for i in range(high):
                    _copy(out[line + r + i, left : left + wide], sums[i * _WIDTH :])
                for k in range(0, depth, 4):
                    _add_four(a, r, high, top + k, panel, k, sums, wide)
                for i in range(high):
                    _copy(sums[i * _WIDTH : i * _WIDTH + wide], out[line + r + i, left:])


@inner
def _lay_out(b, top, depth, first, wide, panel):
    """Lines of b one behind the other, and zeros up to a multiple of four."""
    for k in range(depth):
        _copy(b[top + k, first : first + wide], panel[k * _WIDTH :])
    for k in range(depth, depth + -depth % 4):
        for j in range(wide):
            panel[k * _WIDTH + j] = 0


@inner
def _copy(source, target):
    """Views from 0 on: a loop over them goes as vectors."""
    for j in range(source.shape[0]):
        target[j] = source[j]


@inner
def _factor(a, r, k):
    return a[r, k] if k < a.shape[1] else a.dtype.type(0)


@inner
def _add_four(a, r, high, k, panel, at, sums, wide):
    """Four lines of the panel added to up to four lines of the sums; sums of lines that are not there are not used."""
    r1, r2, r3 = r + min(1, high - 1), r + min(2, high - 1), r + min(3, high - 1)
    p0, p1, p2, p3 = _factor(a, r, k), _factor(a, r, k + 1), _factor(a, r, k + 2), _factor(a, r, k + 3)
    q0, q1, q2, q3 = _factor(a, r1, k), _factor(a, r1, k + 1), _factor(a, r1, k + 2), _factor(a, r1, k + 3)
    s0, s1, s2, s3 = _factor(a, r2, k), _factor(a, r2, k + 1), _factor(a, r2, k + 2), _factor(a, r2, k + 3)
    t0, t1, t2, t3 = _factor(a, r3, k), _factor(a, r3, k + 1), _factor(a, r3, k + 2), _factor(a, r3, k + 3)
    start = np.uint64(at * _WIDTH)
    for column in range(wide):
        j = np.uint64(column)  # unsigned: no index from the end, and what follows goes as vectors
        b0, b1, b2, b3 = panel[start + j], panel[start + j + _1], panel[start + j + _2], panel[start + j + _3]
        sums[j] = sums[j] + p0 * b0 + p1 * b1 + p2 * b2 + p3 * b3
        sums[j + _1] = sums[j + _1] + q0 * b0 + q1 * b1 + q2 * b2 + q3 * b3
        sums[j + _2] = sums[j + _2] + s0 * b0 + s1 * b1 + s2 * b2 + s3 * b3
        sums[j + _3] = sums[j + _3] + t0 * b0 + t1 * b1 + t2 * b2 + t3 * b3
