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
from quant.kernels.affine import search_ends
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import store_halves
from quant.kernels.packing import pack_nibbles

N = 32
NMAX = np.float32(15)
PLAN = affine_blocks.AffinePlan(
    nmax=NMAX,
    top=np.float32(63),
    ends=search_ends(NMAX, [0, 0.4], [-0.6, -0.2, 0.2, 0.6]),
    n_refine=1,
    spread=np.float32(1),
    n_tries=9,
    n_rounds=1,
    reach=2,
)


def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
    """Encode rows; the contract is in quant/kernels/__init__.py."""
    affine_blocks.encode(w, importance, out, N, PLAN, _pack)


@kernel
def _pack(halves, codes, levels, out):
    n_blocks = levels.shape[3]
    for t in range(levels.shape[0]):
        _pack_tile(halves[t], codes[t], levels[t], out[t * n_blocks : (t + 1) * n_blocks])


@inner
def _pack_tile(halves, codes, level, out):
    store_halves(halves[0], 0, out)
    store_halves(halves[1], 2, out)
    pack_codes(codes[0], codes[1], 4, out)
    for g in range(4):
        pack_nibbles(level[:, 2 * g], level[:, 2 * g + 1], 16 + 32 * g, out)


@inner
def pack_codes(scale_code, min_code, at, out):
    """Eight scale codes and eight minimum codes of 6 bits to twelve bytes, as drawn above; Q5_K stores them alike."""
    for b in range(out.shape[0]):
        for k in range(4):
            scale, minimum = scale_code[k, b], min_code[k, b]
            scale4, minimum4 = scale_code[k + 4, b], min_code[k + 4, b]
            out[b, at + k] = scale | ((scale4 >> 4) << 6)
            out[b, at + 4 + k] = minimum | ((minimum4 >> 4) << 6)
            out[b, at + 8 + k] = (scale4 & 15) | ((minimum4 & 15) << 4)
