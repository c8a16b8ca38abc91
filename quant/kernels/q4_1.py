"""Q4_1: 32 weights in 20 bytes, 5 bits a weight.

      byte 0     2     4                     20
           | d    | m   | qs (16)             |
             f16    f16   4-bit levels

      x̂ = d · level + m
      qs[i]     level of weight i below, of weight 16 + i above      i = 0..15

Source: ggml-common.h block_q4_1, ggml-quants.c dequantize_row_q4_1.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels import affine_singles
from quant.kernels.affine import search_ends
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import store_halves
from quant.kernels.packing import pack_block32

NMAX = np.float32(15)
REACH = [-0.6, -0.3, 0, 0.3, 0.6, 0.9, 1.2]
PLAN = affine_singles.SinglePlan(nmax=NMAX, ends=search_ends(NMAX, REACH, REACH), n_refine=2)


def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
    """Encode rows; the contract is in quant/kernels/__init__.py."""
    if importance is None:
        _encode_plain(w.reshape(-1, 32), out.reshape(-1, 20))
    else:
        affine_singles.encode(w, importance, out, PLAN, _pack)


_encode_plain = affine_singles.plain_encoder(NMAX, high_at=0, levels_at=4)


@kernel
def _pack(halves, levels, out):
    n_blocks = levels.shape[2]
    for t in range(levels.shape[0]):
        _pack_tile(halves[t], levels[t], out[t * n_blocks : (t + 1) * n_blocks])


@inner
def _pack_tile(halves, level, out):
    store_halves(halves[0], 0, out)
    store_halves(halves[1], 2, out)
    pack_block32(level, 4, out)
