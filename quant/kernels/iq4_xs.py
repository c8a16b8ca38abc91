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
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import store_halves
from quant.kernels.nonlinear import HIGHEST, LOWEST
from quant.kernels.packing import pack_block32
from quant.kernels.symmetric import Levels, search_ends

N = 32
LEVELS = Levels(LOWEST, HIGHEST, nonlinear=True)
PLAN = symmetric_blocks.SymmetricPlan(
    levels=LEVELS,
    lowest_code=np.float32(-32),
    highest_code=np.float32(31),
    ends=search_ends(LEVELS, [-1, 1, 0.9, 1.1, 1.25, 1.5], [1, 0.93, 1.07, 1.2, 1.4]),
    n_refine=1,
    spread=np.float32(4),
    n_tries=9,
    n_rounds=1,
)


def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
    """Encode rows; the contract is in quant/kernels/__init__.py."""
    symmetric_blocks.encode(w, importance, out, N, PLAN, _pack)


@kernel
def _pack(halves, codes, levels, out):
    n_blocks = levels.shape[3]
    for t in range(levels.shape[0]):
        _pack_tile(halves[t], codes[t], levels[t], out[t * n_blocks : (t + 1) * n_blocks])


@inner
def _pack_tile(d, codes, level, out):
    store_halves(d, 0, out)
    _pack_codes(codes, 2, out)
    for k in range(8):
        pack_block32(level[:, k], 8 + 16 * k, out)


@inner
def _pack_codes(codes, at, out):
    """Eight codes -32..31, stored from 0 up, as drawn above."""
    for b in range(out.shape[0]):
        high = np.uint16(0)
        for k in range(8):
            high |= np.uint16((codes[k, b] + 32) >> 4) << (2 * k)
        out[b, at] = high & 0xFF
        out[b, at + 1] = high >> 8
        for k in range(4):
            even, odd = np.uint8(codes[2 * k, b] + 32), np.uint8(codes[2 * k + 1, b] + 32)
            out[b, at + 2 + k] = (even & 15) | ((odd & 15) << 4)
