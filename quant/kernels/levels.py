"""The last step of every encoder: integer levels of one block, in the block's own order, ready to be packed.

Knows values, scales and levels. Does not know bytes.
"""

import numpy as np

from quant.kernels.compiler import kernel

_ZERO = np.float32(0)
_ONE = np.float32(1)
_LARGEST = np.float32(2.0**30)


@kernel
def affine_levels(values, d, dmin, codes, nmax, level):
    """Nearest of 0..nmax to (x + dmin · min_code) / (d · scale_code); 0 where the scale is 0.

    values (n_sub, n) float32, codes (2, n_sub) uint8, level (n_sub, n) uint8
    """
    for sub in range(values.shape[0]):
        scale, minimum = d * np.float32(codes[0, sub]), dmin * np.float32(codes[1, sub])
        inverse = _ONE / scale if scale != _ZERO else _ZERO
        x, out = values[sub], level[sub]
        for i in range(x.shape[0]):
            v = min(max(x[i], -_LARGEST), _LARGEST) + minimum
            out[i] = np.uint8(np.int32(min(max(np.rint(v * inverse), _ZERO), nmax)))


@kernel
def symmetric_levels(values, d, codes, lowest, highest, level):
    """Nearest of lowest..highest to x / (d · code), counted from 0 (minus lowest); level zero where the scale is 0.

    values (n_sub, n) float32, codes (n_sub,) int8, level (n_sub, n) uint8
    """
    for sub in range(values.shape[0]):
        scale = d * np.float32(codes[sub])
        inverse = _ONE / scale if scale != _ZERO else _ZERO
        x, out = values[sub], level[sub]
        for i in range(x.shape[0]):
            v = min(max(x[i], -_LARGEST), _LARGEST)
            out[i] = np.uint8(np.int32(min(max(np.rint(v * inverse), lowest), highest) - lowest))
