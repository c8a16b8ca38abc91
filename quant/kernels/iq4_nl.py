"""IQ4_NL: 32 weights in 18 bytes, 4.5 bits a weight, at sixteen uneven values.

      byte 0     2                     18
           | d    | qs (16)             |
             f16    4-bit codes

      x̂ = d · VALUES[code]      VALUES in nonlinear.py
      qs[i]     code of weight i below, of weight 16 + i above      i = 0..15

Source: ggml-common.h block_iq4_nl, ggml-quants.c dequantize_row_iq4_nl.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels import symmetric_singles
from quant.kernels.compiler import kernel
from quant.kernels.halves import store_half
from quant.kernels.levels import pack_nibbles
from quant.kernels.nonlinear import HIGHEST, LOWEST, nonlinear_codes
from quant.kernels.symmetric import Levels
from quant.kernels.tile import search_steps

PLAN = symmetric_singles.SinglePlan(
    levels=Levels(LOWEST, HIGHEST, nonlinear=True), steps=search_steps(7, 15), n_refine=2, n_plain=2
)


def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
    """Encode rows; the contract is in quant/kernels/__init__.py."""
    symmetric_singles.encode(w, importance, out, PLAN, _pack)


@kernel
def _pack(values, d, out):
    code = np.empty(32, dtype=np.uint8)
    for b in range(values.shape[0]):
        nonlinear_codes(values[b, 0], d[b], code)
        store_half(d[b], out[b], 0)
        pack_nibbles(code, out[b, 2:18])
