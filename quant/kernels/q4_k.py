"""Q4_K: 256 weights in 144 bytes, 4.5 bits a weight.

      byte 0    2     4              16                                                  144
           | d  | dmin | scales (12) | qs (128)                                           |
             f16  f16    8 + 8 codes   4-bit levels
                         of 6 bits

      x̂ = (d · scale_code[k]) · level - (dmin · min_code[k])      k = 0..7, sub-blocks of 32 weights

      scales, codes 0..3    scales[k]     = scale_code[k]     in bits 0-5      bits 6-7 lend room to code k + 4:
                            scales[k + 4] = min_code[k]       in bits 0-5
      scales, codes 4..7    scales[k + 4] = low 4 bits of scale_code[k], low 4 bits of min_code[k] above them
                            scales[k - 4] bits 6-7 = high 2 bits of scale_code[k]
                            scales[k]     bits 6-7 = high 2 bits of min_code[k]

      qs[32g + i]           level of weight 64g + i below, of weight 64g + 32 + i above      g = 0..3, i = 0..31

Source: ggml-common.h block_q4_K, ggml-quants.c dequantize_row_q4_K.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels import affine_blocks
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import store_half
from quant.kernels.levels import affine_block_levels
from quant.kernels.tile import search_steps

N = 32
NMAX = np.float32(15)
PLAN = affine_blocks.AffinePlan(
    nmax=NMAX,
    top=np.float32(63),
    steps=search_steps(0.9, 13),
    n_refine=2,
    spread=np.float32(1),
    n_tries=9,
    n_rounds=1,
)


def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
    """Encode rows; the contract is in quant/kernels/__init__.py."""
    affine_blocks.encode(w, importance, out, N, PLAN, _pack)


@kernel
def _pack(values, d, dmin, codes, out):
    level = np.empty((8, N), dtype=np.uint8)
    for b in range(values.shape[0]):
        affine_block_levels(values[b], d[b], dmin[b], codes[b], NMAX, level)
        block = out[b]
        store_half(d[b], block, 0)
        store_half(dmin[b], block, 2)
        pack_codes(codes[b, 0], codes[b, 1], block[4:16])
        for g in range(4):
            below, above, qs = level[2 * g], level[2 * g + 1], block[16 + 32 * g : 48 + 32 * g]
            for i in range(N):
                qs[i] = below[i] | (above[i] << 4)


@inner
def pack_codes(scale_code, min_code, scales):
    """Eight scale codes and eight minimum codes of 6 bits into 12 bytes, as drawn above; Q5_K stores them alike."""
    for k in range(4):
        scales[k] = scale_code[k] | ((scale_code[k + 4] >> 4) << 6)
        scales[k + 4] = min_code[k] | ((min_code[k + 4] >> 4) << 6)
        scales[k + 8] = (scale_code[k + 4] & 15) | ((min_code[k + 4] & 15) << 4)
