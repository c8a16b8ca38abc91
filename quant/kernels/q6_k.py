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
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import store_halves
from quant.kernels.symmetric import Levels, search_ends

N = 16
LEVELS = Levels(np.float32(-32), np.float32(31), nonlinear=False)
PLAN = symmetric_blocks.SymmetricPlan(
    levels=LEVELS,
    lowest_code=np.float32(-128),
    highest_code=np.float32(127),
    ends=search_ends(LEVELS, [1, 0.985, 1.015, 1.005, 1.05], [1]),
    n_refine=0,
    spread=np.float32(2),
    n_tries=5,
    n_rounds=0,
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
    for k in range(2):  # 32 neighbours are two sub-blocks of 16
        for h in range(2):
            part = level[:, 8 * h + k : 8 * h + 8 : 2]
            _pack_quarters(part[:, 0], part[:, 1], part[:, 2], part[:, 3], 64 * h + N * k, 128 + 32 * h + N * k, out)
    for b in range(out.shape[0]):
        for k in range(16):
            out[b, 192 + k] = codes[k, b]
    store_halves(d, 208, out)


@inner
def _pack_quarters(q0, q1, q2, q3, low_at, high_at, out):
    for b in range(out.shape[0]):
        for i in range(N):
            l0, l1, l2, l3 = q0[i, b], q1[i, b], q2[i, b], q3[i, b]
            out[b, low_at + i] = (l0 & 15) | ((l2 & 15) << 4)
            out[b, low_at + 32 + i] = (l1 & 15) | ((l3 & 15) << 4)
            out[b, high_at + i] = (l0 >> 4) | ((l1 >> 4) << 2) | ((l2 >> 4) << 4) | ((l3 >> 4) << 6)
