"""Rows of logits to sums of exponentials, compiled. Used by `quant.logits`, which checks shapes and names errors.

Everything is summed in float64. The exponential is written out so that the compiler can use vectors; sums may be
reordered by it, but a row's figures depend on nothing but the row.
"""

import numpy as np

from quant.kernels.compiler import summing as _kernel

_LOG2_E = 1.4426950408889634
# ln 2 in two parts: the first has so few bits that a multiple of it up to 1023 is exact (Cody and Waite)
_LN2_HIGH = 6.93145751953125e-1
_LN2_LOW = 1.42860682030941723212e-6
_LOWEST = -708.0  # exp of less is not a normal float64; nothing this small changes a sum that holds a 1
_LARGEST = np.float32(3.4028234663852886e38)


@_kernel
def _exp(x):
    """exp of x <= 0 to 4e-16 relative: 2^k · polynomial of the rest, the power of two written as bits."""
    x = max(x, _LOWEST)
    k = np.rint(x * _LOG2_E)
    f = (x - k * _LN2_HIGH) - k * _LN2_LOW
    p = 1 / 5040 + f * (1 / 40320 + f * (1 / 362880 + f * (1 / 3628800 + f * (1 / 39916800))))
    p = 1.0 + f * (1.0 + f * (1 / 2 + f * (1 / 6 + f * (1 / 24 + f * (1 / 120 + f * (1 / 720 + f * p))))))
    return p * np.int64((np.int64(k) + 1023) << 52).view(np.float64)


@_kernel
def _largest(row):
    """The largest value, and how many values are not finite."""
    top, n_bad = row[0], 0
    for i in range(row.size):
        top = max(top, row[i])
        n_bad += not (abs(row[i]) <= _LARGEST)
    return top, n_bad


@_kernel
def _first(row, value):
    for i in range(row.size):
        if row[i] == value:
            return i
    return -1


@_kernel
def compare(base, cand, lse_base, lse_cand, kld, same_top):
    """Both log-sum-exp, KL(base || cand) and whether the first maximum is the same.

    Returns -1, or 2r or 2r+1 for a row r of base or cand that is not finite.
    KL = Σ p (b - c) + lse_c - lse_b with b, c taken from their maxima: two equal rows give exactly 0.
    """
    for r in range(base.shape[0]):
        b, c = base[r], cand[r]
        top_b, bad_b = _largest(b)
        top_c, bad_c = _largest(c)
        if bad_b or bad_c:
            return 2 * r + (bad_b == 0)
        peak_b, peak_c = np.float64(top_b), np.float64(top_c)
        sum_b, sum_c, moment = 0.0, 0.0, 0.0
        for i in range(b.size):
            x, y = np.float64(b[i]) - peak_b, np.float64(c[i]) - peak_c
            e = _exp(x)
            sum_b += e
            sum_c += _exp(y)
            moment += e * (x - y)
        lse_base[r], lse_cand[r] = peak_b + np.log(sum_b), peak_c + np.log(sum_c)
        kld[r] = max(0.0, moment / sum_b + (np.log(sum_c) - np.log(sum_b)))
        same_top[r] = _first(b, top_b) == _first(c, top_c)
    return -1


@_kernel
def select_top(logits, values, ids):
    """The k largest of each row, largest first, the lower id first among equals, into `values`, `ids` (n, k)."""
    k = ids.shape[1]
    for r in range(logits.shape[0]):
        held = 0
        for i in range(logits.shape[1]):
            x = logits[r, i]
            if held == k and x <= values[r, k - 1]:
                continue
            at = min(held, k - 1)
            while at > 0 and values[r, at - 1] < x:
                values[r, at], ids[r, at] = values[r, at - 1], ids[r, at - 1]
                at -= 1
            values[r, at], ids[r, at] = x, i
            held = min(held + 1, k)


@_kernel
def _outside(x, i, last, last_id):
    """Whether entry i is not among the top whose last entry has value `last` and id `last_id`."""
    return x < last or (x == last and i > last_id)


@_kernel
def tail_sum(logits, values, ids, lse, out):
    """ln of the probability outside the top of each row, summed there, not taken from 1. -inf where nothing is left."""
    last = ids.shape[1] - 1
    for r in range(logits.shape[0]):
        row, edge, edge_id = logits[r], values[r, last], ids[r, last]
        total = 0.0
        for i in range(row.size):
            e = _exp(min(0.0, np.float64(row[i]) - edge))  # from the edge: a tiny tail keeps its digits
            total += e if _outside(row[i], i, edge, edge_id) else 0.0
        out[r] = np.float64(edge) - lse[r] + np.log(total)


@_kernel
def draw_tail(logits, values, ids, lse, log_tail, uniforms, drawn):
    """Ids drawn from the tail of each row in proportion to probability, at the ascending `uniforms` (n, m)."""
    last = ids.shape[1] - 1
    m = uniforms.shape[1]
    for r in range(logits.shape[0]):
        row, edge, edge_id = logits[r], values[r, last], ids[r, last]
        passed, j, newest = 0.0, 0, -1
        for i in range(row.size):
            if j == m:
                break
            if _outside(row[i], i, edge, edge_id):
                passed += _exp(min(0.0, np.float64(row[i]) - lse[r] - log_tail[r]))
                newest = i
                while j < m and uniforms[r, j] < passed:
                    drawn[r, j] = i
                    j += 1
        while j < m:  # rounding left the total below the last uniform
            drawn[r, j] = newest
            j += 1
