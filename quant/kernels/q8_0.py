"""Q8_0: 32 weights in 34 bytes, 8.5 bits a weight.

      byte 0     2                                34
           | d    | levels (32)                     |
             f16    int8

      x̂ = d · level      level -127..127

The scale is the largest magnitude over 127 rounded to float16, levels are rounded for the scale that is stored.
Importance is not used: at eight bits a search buys nothing that a reader would notice.

Source: ggml-common.h block_q8_0, ggml-quants.c dequantize_row_q8_0.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels.compiler import kernel
from quant.kernels.halves import round_to_half, store_half

_BLOCK, _TYPE_SIZE = 32, 34
_ZERO, _ONE, _TOP = np.float32(0), np.float32(1), np.float32(127)


def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
    """Encode rows; the contract is in quant/kernels/__init__.py."""
    _encode(w.reshape(-1, _BLOCK), out.reshape(-1, _TYPE_SIZE))


@kernel
def _encode(values, out):
    for block in range(values.shape[0]):
        x, q = values[block], out[block]
        largest = _ZERO
        for i in range(_BLOCK):
            largest = max(largest, abs(x[i]))
        d = round_to_half(largest / _TOP)
        inverse = _ONE / d if d > _ZERO else _ZERO
        for i in range(_BLOCK):
            q[i + 2] = np.uint8(np.int32(min(max(np.rint(x[i] * inverse), -_TOP), _TOP)))
        store_half(d, q, 0)
