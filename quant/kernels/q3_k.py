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
from quant.kernels.halves import store_half
from quant.kernels.levels import pack_pairs_of_bits, symmetric_block_levels
from quant.kernels.symmetric import Levels
from quant.kernels.tile import search_steps

N = 16
LOWEST, HIGHEST = np.float32(-4), np.float32(3)
PLAN = symmetric_blocks.SymmetricPlan(
    levels=Levels(LOWEST, HIGHEST, nonlinear=False),
    lowest_code=np.float32(-32),
    highest_code=np.float32(31),
    steps=search_steps(0.9, 7),
    n_refine=1,
    spread=np.float32(2),
    n_tries=5,
    n_rounds=1,
)


def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
    """Encode rows; the contract is in quant/kernels/__init__.py."""
    symmetric_blocks.encode(w, importance, out, N, PLAN, _pack)


@kernel
def _pack(values, d, codes, out):
    level = np.empty((16, N), dtype=np.uint8)
    groups = level.reshape(8, 32)
    for b in range(values.shape[0]):
        symmetric_block_levels(values[b], d[b], codes[b], LOWEST, HIGHEST, level)
        block = out[b]
        hmask = block[0:32]
        hmask[:] = 0
        for g in range(8):
            group = groups[g]
            for i in range(32):
                hmask[i] |= (group[i] >> 2) << g
                group[i] &= 3
        pack_pairs_of_bits(level.reshape(2, 4, 32), block[32:96])
        _pack_codes(codes[b], block[96:108])
        store_half(d[b], block, 108)


@inner
def _pack_codes(codes, out):
    for j in range(4):
        c0, c1 = np.uint8(codes[j] + 32), np.uint8(codes[j + 4] + 32)
        c2, c3 = np.uint8(codes[j + 8] + 32), np.uint8(codes[j + 12] + 32)
        out[j] = (c0 & 15) | ((c2 & 15) << 4)
        out[j + 4] = (c1 & 15) | ((c3 & 15) << 4)
        out[j + 8] = (c0 >> 4) | ((c1 >> 4) << 2) | ((c2 >> 4) << 4) | ((c3 >> 4) << 6)
