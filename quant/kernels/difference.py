"""Sums over pairs of rows, compiled. Used by `quant.difference`."""

import numpy as np

from quant.kernels.compiler import summing as _kernel

_LARGEST = np.float32(3.4028234663852886e38)


@_kernel
def row_sums(base, cand, base2, cand2, diff2, product, n_pair, n_bad):
    """Σb², Σc², Σ(b-c)², Σbc of each row over the pairs that are finite, how many those are, and how many of `cand`
    are not finite."""
    for r in range(base.shape[0]):
        b2, c2, d2, bc, pairs, bad = 0.0, 0.0, 0.0, 0.0, 0, 0
        for i in range(base.shape[1]):
            x, y = base[r, i], cand[r, i]
            fine = (abs(x) <= _LARGEST) & (abs(y) <= _LARGEST)
            pairs += fine
            bad += not (abs(y) <= _LARGEST)
            b, c = np.float64(x if fine else np.float32(0)), np.float64(y if fine else np.float32(0))
            b2 += b * b
            c2 += c * c
            d2 += (b - c) * (b - c)
            bc += b * c
        base2[r], cand2[r], diff2[r], product[r], n_pair[r], n_bad[r] = b2, c2, d2, bc, pairs, bad
