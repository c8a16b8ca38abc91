"""Our own encoders, one file a block layout. `KERNELS` maps a type's name to its encoder.

The contract of an encoder: `encode(w, importance, out)`, where
    w           (n_rows, n_per_row) float32, C order, finite, n_per_row a multiple of the block size
    importance  (n_per_row,) float32, finite, non-negative, or None
    out         (n_rows, row_nbytes) uint8, C order, filled completely
Rows are independent, the bytes depend on nothing but the arguments, and the GIL is released.

What every search minimizes is Σ importance · (x - x̂)², with equal importance where none is given. llama.cpp bends the
importance by √(σ² + x²) while it searches; on held-out text that was worse for our searches at 2 and 3 bits and made no
difference at 4 and 5. Q8_0, and Q4_0, Q4_1, Q5_0, Q5_1 without importance, search little or not at all.

Where to read: a layout's file draws its bytes, says how wide to search (PLAN) and packs; tile.py rearranges weights;
affine.py and symmetric.py fit sub-blocks with and without a minimum; affine_codes.py, symmetric_blocks.py and units.py
find what a super-block stores of those fits.
"""

from collections.abc import Callable
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

Kernel = Callable[[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.uint8]], None]


def _kernel(module: str) -> Kernel:
    # Numba takes half a second to import: it is loaded with the first encoder that is called
    def encode(w: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]) -> None:
        import_module(f"quant.kernels.{module}").encode(w, importance, out)

    return encode


KERNELS: dict[str, Kernel] = {
    "Q8_0": _kernel("q8_0"),
    "Q5_1": _kernel("q5_1"),
    "Q5_0": _kernel("q5_0"),
    "Q4_1": _kernel("q4_1"),
    "Q4_0": _kernel("q4_0"),
    "Q6_K": _kernel("q6_k"),
    "Q5_K": _kernel("q5_k"),
    "Q4_K": _kernel("q4_k"),
    "Q3_K": _kernel("q3_k"),
    "Q2_K": _kernel("q2_k"),
    "IQ4_NL": _kernel("iq4_nl"),
    "IQ4_XS": _kernel("iq4_xs"),
}
