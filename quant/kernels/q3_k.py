"""Q3_K: 256 weights in 110 bytes, 3.4375 bits a weight.

      byte 0               32                                      96              108   110
           | hmask (32)    | qs (64)                               | codes (12)    | d   |
             level, bit 2    levels, bits 0-1                        16 of 6 bits    f16

      x̂ = d · (code[k] - 32) · (level - 4)      k = 0..15, sub-blocks of 16 weights; level 0..7

      hmask[i]        bit g = bit 2 of weight 32g + i      g = 0..7, i = 0..31
      qs[32h + i]     weights 128h + i, 128h + 32 + i, 128h + 64 + i, 128h + 96 + i, from the lowest bits; h = 0, 1
      codes[k]        low 4 bits of code k below, of code k + 8 above      k = 0..7
      codes[8 + j]    high 2 bits of codes j, j + 4, j + 8, j + 12, from the lowest bits      j = 0..3

Source: ggml-common.h block_q3_K, ggml-quants.c dequantize_row_q3_K.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels import symmetric_blocks
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import store_halves
from quant.kernels.packing import pack_bits, pack_pairs_of_bits
from quant.kernels.symmetric import Levels, search_ends

N = 16
LEVELS = Levels(np.float32(-4), np.float32(3), nonlinear=False)
PLAN = symmetric_blocks.SymmetricPlan(
    levels=LEVELS,
    lowest_code=np.float32(-32),
    highest_code=np.float32(31),
    ends=search_ends(LEVELS, [1, 0.9, 1.12, 1.25, 1.4], [0.9, 1, 1.15, 1.35]),
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
        pack_bits(level[:, k::2], 2, N * k, out)
        for h in range(2):
            part = level[:, 8 * h + k : 8 * h + 8 : 2]
            pack_pairs_of_bits(part[:, 0], part[:, 1], part[:, 2], part[:, 3], 0, 32 + 32 * h + N * k, out)
    _pack_codes(codes, 96, out)
    store_halves(d, 108, out)


@inner
def _pack_codes(codes, at, out):
    """Sixteen codes -32..31, stored from 0 up, as drawn above."""
    for b in range(out.shape[0]):
        for j in range(4):
            c0, c1 = np.uint8(codes[j, b] + 32), np.uint8(codes[j + 4, b] + 32)
            c2, c3 = np.uint8(codes[j + 8, b] + 32), np.uint8(codes[j + 12, b] + 32)
            out[b, at + j] = (c0 & 15) | ((c2 & 15) << 4)
            out[b, at + 4 + j] = (c1 & 15) | ((c3 & 15) << 4)
            out[b, at + 8 + j] = (c0 >> 4) | ((c1 >> 4) << 2) | ((c2 >> 4) << 4) | ((c3 >> 4) << 6)
