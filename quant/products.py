"""Products of matrices, row by row: the same sums whatever the number of rows, and no threads of BLAS left spinning."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]
Float = TypeVar("Float", np.float32, np.float64)


def product(a: NDArray[Float], b: NDArray[Float], columns: slice = slice(None)) -> NDArray[Float]:
    """a @ b[:, columns]; each row's sums do not depend on the other rows, and no threads of BLAS are left spinning."""
    from quant.kernels.products import add_product

    first, last, _ = columns.indices(b.shape[1])
    out = np.zeros((len(a), last - first), dtype=a.dtype)
    add_product(np.ascontiguousarray(a), np.ascontiguousarray(b), first, out, 0, last - first)
    return out


def row_dots(a: F32Array, b: F32Array) -> F64Array:
    """Σ_j a[r, j] b[r, j] of each row (n_rows,)."""
    from quant.kernels import feedback

    out = np.empty(len(a))
    feedback.row_dots(np.ascontiguousarray(a), np.ascontiguousarray(b), out)
    return out
