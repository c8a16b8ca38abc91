"""Q4_1: 32 weights in 20 bytes, 5 bits a weight.

      byte 0     2     4                     20
           | d    | m   | qs (16)             |
             f16    f16   4-bit levels

      x̂ = d · level + m
      qs[i]     level of weight i below, of weight 16 + i above      i = 0..15

Source: ggml-common.h block_q4_1, ggml-quants.c dequantize_row_q4_1.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels import affine_singles
from quant.kernels.compiler import kernel
from quant.kernels.halves import store_half
from quant.kernels.levels import affine_levels, pack_nibbles
from quant.kernels.tile import search_steps

NMAX = np.float32(15)
PLAN = affine_singles.SinglePlan(nmax=NMAX, steps=search_steps(0.9, 13), n_refine=2)


def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
    """Encode rows; the contract is in quant/kernels/__init__.py."""
    affine_singles.encode(w, importance, out, PLAN, _pack)


@kernel
def _pack(values, d, m, out):
    level = np.empty(32, dtype=np.uint8)
    for b in range(values.shape[0]):
        affine_levels(values[b, 0], d[b], m[b], NMAX, level)
        store_half(d[b], out[b], 0)
        store_half(m[b], out[b], 2)
        pack_nibbles(level, out[b, 4:20])
