"""Q4_0: 32 weights in 18 bytes, 4.5 bits a weight.

      byte 0     2                     18
           | d    | qs (16)             |
             f16    4-bit levels

      x̂ = d · (level - 8)
      qs[i]     level of weight i below, of weight 16 + i above      i = 0..15

Source: ggml-common.h block_q4_0, ggml-quants.c dequantize_row_q4_0.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels import symmetric_singles
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import store_halves
from quant.kernels.packing import pack_block32
from quant.kernels.symmetric import Levels, search_ends

LEVELS = Levels(np.float32(-8), np.float32(7), nonlinear=False)
PLAN = symmetric_singles.SinglePlan(
    levels=LEVELS,
    ends=search_ends(LEVELS, [1, 0.97, 1.03, 1.06, 1.1, 1.15, 1.25, 1.4, 1.6], [1, 1.07, 1.15]),
    n_refine=1,
    n_plain=3,
)
# llama.cpp does not search without importance: no slower than that
FLAT_PLAN = PLAN._replace(ends=search_ends(LEVELS, [1], []), n_refine=0, n_plain=0)


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
    pack_block32(level, 2, out)
