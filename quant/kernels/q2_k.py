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
from quant.kernels.affine import search_ends
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import store_halves
from quant.kernels.packing import pack_nibbles, pack_pairs_of_bits

N = 16
NMAX = np.float32(3)
PLAN = affine_blocks.AffinePlan(
    nmax=NMAX,
    top=np.float32(15),
    ends=np.concatenate([search_ends(NMAX, [0], [-1, 0, 0.5, 1]), search_ends(NMAX, [0.5], [0, 0.5])]),
    n_refine=1,
    spread=np.float32(2),
    n_tries=9,
    n_rounds=1,
    reach=4,
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
    pack_nibbles(codes[0], codes[1], 0, out)
    for k in range(2):  # 32 neighbours are two sub-blocks of 16
        for h in range(2):
            part = level[:, 8 * h + k : 8 * h + 8 : 2]
            pack_pairs_of_bits(part[:, 0], part[:, 1], part[:, 2], part[:, 3], 0, 16 + 32 * h + N * k, out)
    store_halves(halves[0], 80, out)
    store_halves(halves[1], 82, out)
