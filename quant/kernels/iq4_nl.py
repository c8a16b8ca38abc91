"""IQ4_NL: 32 weights in 18 bytes, 4.5 bits a weight, at sixteen uneven values.

      byte 0     2                     18
           | d    | qs (16)             |
             f16    4-bit codes

      x̂ = d · VALUES[code]      VALUES in nonlinear.py
      qs[i]     code of weight i below, of weight 16 + i above      i = 0..15

Source: ggml-common.h block_iq4_nl, ggml-quants.c dequantize_row_iq4_nl.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels import symmetric_singles
from quant.kernels.compiler import inner, kernel
from quant.kernels.halves import store_halves
from quant.kernels.nonlinear import HIGHEST, LOWEST
from quant.kernels.packing import pack_block32
from quant.kernels.symmetric import Levels, search_ends

LEVELS = Levels(LOWEST, HIGHEST, nonlinear=True)
PLAN = symmetric_singles.SinglePlan(
    levels=LEVELS,
    ends=search_ends(LEVELS, [-1, 1, 0.9, 0.95, 1.05, 1.1, 1.2, 1.35, 1.5], [1, 0.93, 1.07, 1.15, 1.25, 1.4]),
    n_refine=2,
    n_plain=2,
)


def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
    """Encode rows; the contract is in quant/kernels/__init__.py."""
    symmetric_singles.encode(w, importance, out, PLAN, _pack)


@kernel
def _pack(halves, levels, out):
    n_blocks = levels.shape[2]
    for t in range(levels.shape[0]):
        _pack_tile(halves[t], levels[t], out[t * n_blocks : (t + 1) * n_blocks])


@inner
def _pack_tile(d, level, out):
    store_halves(d, 0, out)
    pack_block32(level, 2, out)
