"""Q2_K: 256 weights in 84 bytes, 2.625 bits a weight.

      byte 0              16                                      80    82     84
           | codes (16)   | qs (64)                               | d   | dmin |
             4 + 4 bits     levels, 2 bits                          f16   f16

      x̂ = (d · scale_code[k]) · level - (dmin · min_code[k])      k = 0..15, sub-blocks of 16 weights

      codes[k]        scale_code[k] below, min_code[k] above
      qs[32h + i]     weights 128h + i, 128h + 32 + i, 128h + 64 + i, 128h + 96 + i, from the lowest bits;
                      h = 0, 1, i = 0..31

Source: ggml-common.h block_q2_K, ggml-quants.c dequantize_row_q2_K.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels import affine_blocks
from quant.kernels.compiler import kernel
from quant.kernels.halves import store_half
from quant.kernels.levels import affine_block_levels, pack_pairs_of_bits
from quant.kernels.tile import search_steps

N = 16
NMAX = np.float32(3)
PLAN = affine_blocks.AffinePlan(
    nmax=NMAX,
    top=np.float32(15),
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
    level = np.empty((16, N), dtype=np.uint8)
    for b in range(values.shape[0]):
        affine_block_levels(values[b], d[b], dmin[b], codes[b], NMAX, level)
        block = out[b]
        for k in range(16):
            block[k] = codes[b, 0, k] | (codes[b, 1, k] << 4)
        pack_pairs_of_bits(level.reshape(2, 4, 32), block[16:80])
        store_half(d[b], block, 80)
        store_half(dmin[b], block, 82)
