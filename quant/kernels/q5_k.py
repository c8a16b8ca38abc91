"""Q5_K: 256 weights in 176 bytes, 5.5 bits a weight.

      byte 0    2     4              16             48                                    176
           | d  | dmin | scales (12) | qh (32)      | qs (128)                            |
             f16  f16    8 + 8 codes   levels, bit 4  levels, bits 0-3
                         of 6 bits

      x̂ = (d · scale_code[k]) · level - (dmin · min_code[k])      k = 0..7, sub-blocks of 32 weights

      scales                as in q4_k.py
      qs[32g + i]           low 4 bits of weight 64g + i below, of weight 64g + 32 + i above      g = 0..3, i = 0..31
      qh[i]                 bit k = bit 4 of weight i of sub-block k

Source: ggml-common.h block_q5_K, ggml-quants.c dequantize_row_q5_K.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels import affine_blocks
from quant.kernels.affine import search_ends
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import store_halves
from quant.kernels.packing import pack_bits, pack_nibbles
from quant.kernels.q4_k import pack_codes

N = 32
NMAX = np.float32(31)
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
    pack_bits(level, 4, 16, out)
    for g in range(4):
        pack_nibbles(level[:, 2 * g], level[:, 2 * g + 1], 48 + 32 * g, out)
