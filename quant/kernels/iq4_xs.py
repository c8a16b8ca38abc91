"""IQ4_XS: 256 weights in 136 bytes, 4.25 bits a weight.

      byte 0     2          4              8                                            136
           | d   | scales_h | scales_l (4) | qs (128)                                   |
             f16   8 × 2 bits 8 × 4 bits     4-bit codes

      x̂ = d · (scale_code[k] - 32) · VALUES[code]      k = 0..7, sub-blocks of 32 weights; VALUES in nonlinear.py

      scales_l[k // 2]      low 4 bits of scale_code k, even k below, odd k above
      scales_h              little-endian 16 bits: high 2 bits of scale_code k in bits 2k, 2k + 1
      qs[16k + i]           code of weight 32k + i below, of weight 32k + 16 + i above      i = 0..15

Source: ggml-common.h block_iq4_xs, ggml-quants.c dequantize_row_iq4_xs.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels import symmetric_blocks
from quant.kernels.compiler import kernel
from quant.kernels.halves import store_half
from quant.kernels.levels import pack_nibbles
from quant.kernels.nonlinear import HIGHEST, LOWEST, nonlinear_codes
from quant.kernels.symmetric import Levels
from quant.kernels.tile import search_steps

N = 32
PLAN = symmetric_blocks.SymmetricPlan(
    levels=Levels(LOWEST, HIGHEST, nonlinear=True),
    lowest_code=np.float32(-32),
    highest_code=np.float32(31),
    steps=search_steps(7, 15),
    n_refine=1,
    spread=np.float32(1),
    n_tries=9,
    n_rounds=1,
)


def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
    """Encode rows; the contract is in quant/kernels/__init__.py."""
    symmetric_blocks.encode(w, importance, out, N, PLAN, _pack)


@kernel
def _pack(values, d, codes, out):
    level = np.empty(N, dtype=np.uint8)
    for b in range(values.shape[0]):
        block = out[b]
        block[2:8] = 0
        for k in range(8):
            nonlinear_codes(values[b, k], d[b] * np.float32(codes[b, k]), level)
            pack_nibbles(level, block[8 + 16 * k : 24 + 16 * k])
            scale_code = np.uint8(codes[b, k] + 32)
            block[2 + k // 4] |= (scale_code >> 4) << (2 * (k % 4))
            block[4 + k // 2] |= (scale_code & 15) << (4 * (k % 2))
        store_half(d[b], block, 0)
