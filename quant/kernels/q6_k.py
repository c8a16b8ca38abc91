"""Q6_K: 256 weights in 210 bytes, 6.5625 bits a weight.

      byte 0                                128                 192           208   210
           | ql (128)                        | qh (64)           | codes (16)  | d   |
             levels, bits 0-3                  levels, bits 4-5    int8          f16

      x̂ = (d · code[k]) · (level - 32)      k = 0..15, sub-blocks of 16 weights; level 0..63

      Half a block, 128 weights, h = 0, 1; the four quarters of it are 32 weights each, i = 0..31:
      ql[64h + i]        quarter 0 below, quarter 2 above          (4 bits each)
      ql[64h + 32 + i]   quarter 1 below, quarter 3 above
      qh[32h + i]        quarters 0, 1, 2, 3 from the lowest bits  (2 bits each)

Source: ggml-common.h block_q6_K, ggml-quants.c dequantize_row_q6_K.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels import symmetric_blocks
from quant.kernels.compiler import kernel
from quant.kernels.halves import store_half
from quant.kernels.levels import symmetric_block_levels
from quant.kernels.symmetric import Levels
from quant.kernels.tile import search_steps

N = 16
LOWEST, HIGHEST = np.float32(-32), np.float32(31)
PLAN = symmetric_blocks.SymmetricPlan(
    levels=Levels(LOWEST, HIGHEST, nonlinear=False),
    lowest_code=np.float32(-128),
    highest_code=np.float32(127),
    steps=search_steps(0.9, 7),
    n_refine=1,
    spread=np.float32(2),
    n_tries=5,
    n_rounds=0,
)


def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
    """Encode rows; the contract is in quant/kernels/__init__.py."""
    symmetric_blocks.encode(w, importance, out, N, PLAN, _pack)


@kernel
def _pack(values, d, codes, out):
    level = np.empty((16, N), dtype=np.uint8)
    quarters = level.reshape(2, 4, 32)
    for b in range(values.shape[0]):
        symmetric_block_levels(values[b], d[b], codes[b], LOWEST, HIGHEST, level)
        block = out[b]
        for h in range(2):
            q0, q1, q2, q3 = quarters[h, 0], quarters[h, 1], quarters[h, 2], quarters[h, 3]
            ql0, ql1 = block[64 * h : 64 * h + 32], block[64 * h + 32 : 64 * h + 64]
            qh = block[128 + 32 * h : 160 + 32 * h]
            for i in range(32):
                ql0[i] = (q0[i] & 15) | ((q2[i] & 15) << 4)
                ql1[i] = (q1[i] & 15) | ((q3[i] & 15) << 4)
                qh[i] = (q0[i] >> 4) | ((q1[i] >> 4) << 2) | ((q2[i] >> 4) << 4) | ((q3[i] >> 4) << 6)
        for k in range(16):
            block[192 + k] = codes[b, k]
        store_half(d[b], block, 208)
