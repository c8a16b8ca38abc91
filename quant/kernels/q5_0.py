"""Q5_0: 32 weights in 22 bytes, 5.5 bits a weight.

      byte 0     2        6                     22
           | d    | qh (4) | qs (16)             |
             f16    bit 4    bits 0-3

      x̂ = d · (level - 16)
      qh        little-endian 32 bits: bit i = bit 4 of the level of weight i
      qs[i]     low bits of weight i below, of weight 16 + i above      i = 0..15

Source: ggml-common.h block_q5_0, ggml-quants.c dequantize_row_q5_0.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels import symmetric_singles
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import store_halves
from quant.kernels.packing import pack_block32, pack_fifth_bits
from quant.kernels.symmetric import Levels, search_ends

LEVELS = Levels(np.float32(-16), np.float32(15), nonlinear=False)
PLAN = symmetric_singles.SinglePlan(
    levels=LEVELS,
    ends=search_ends(LEVELS, [1, 0.97, 0.985, 1.015, 1.03, 1.06, 1.12, 1.25, 1.5], [1, 1.03]),
    n_refine=2,
    n_plain=3,
)
# llama.cpp does not search without importance: no slower than that
FLAT_PLAN = PLAN._replace(ends=search_ends(LEVELS, [1, 1.015], []), n_refine=0, n_plain=0)


def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
    """Encode rows; the contract is in quant/kernels/__init__.py."""
    symmetric_singles.encode(w, importance, out, PLAN if importance is not None else FLAT_PLAN, _pack)


@kernel
def _pack(halves, levels, out):
    n_blocks = levels.shape[2]
    for t in range(levels.shape[0]):
        _pack_tile(halves[t], levels[t], out[t * n_blocks : (t + 1) * n_blocks])


@inner
def _pack_tile(d, level, out):
    store_halves(d, 0, out)
    pack_fifth_bits(level, 2, out)
    pack_block32(level, 6, out)
