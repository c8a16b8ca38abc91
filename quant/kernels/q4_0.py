"""Q4_0: 32 weights in 18 bytes, 4.5 bits a weight.

      byte 0     2                     18
           | d    | qs (16)             |
             f16    4-bit levels

      x̂ = d · (level - 8)
      qs[i]     level of weight i below, of weight 16 + i above      i = 0..15

Source: ggml-common.h block_q4_0, ggml-quants.c dequantize_row_q4_0.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels import symmetric_singles
from quant.kernels.compiler import kernel
from quant.kernels.halves import store_half
from quant.kernels.levels import pack_nibbles, symmetric_levels
from quant.kernels.symmetric import Levels
from quant.kernels.tile import search_steps

LOWEST, HIGHEST = np.float32(-8), np.float32(7)
PLAN = symmetric_singles.SinglePlan(
    levels=Levels(LOWEST, HIGHEST, nonlinear=False), steps=search_steps(0.9, 13), n_refine=2, n_plain=3
)


def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
    """Encode rows; the contract is in quant/kernels/__init__.py."""
    symmetric_singles.encode(w, importance, out, PLAN, _pack)


@kernel
def _pack(values, d, out):
    level = np.empty(32, dtype=np.uint8)
    for b in range(values.shape[0]):
        symmetric_levels(values[b, 0], d[b], LOWEST, HIGHEST, level)
        store_half(d[b], out[b], 0)
        pack_nibbles(level, out[b, 2:18])
