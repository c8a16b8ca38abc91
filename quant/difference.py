"""How far rows of weights are from the rows they were made of. Arrays in, numbers out; knows no tensor or file."""

from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.errors import ShapeError

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]


class RowSums(NamedTuple):
    """Of each row, all (n_rows,): Σb², Σc², Σ(b-c)², Σbc over the pairs of which both values are finite, the number of
    these pairs, and how many of c are not finite. Figures are NaN where there is no such pair."""

    base2: F64Array
    cand2: F64Array
    diff2: F64Array
    product: F64Array
    n_pair: NDArray[np.int64]
    n_bad: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Root mean square of the difference relative to b's; 0 where both are zero, infinite where b alone is."""
        return relative(float(self.diff2.sum()), float(self.base2.sum())) if self.n_pair.any() else nan

    @property
    def row_cosines(self) -> F64Array:
        """Cosine of the angle between the rows of each pair (n_rows,); 1 where both are zero."""
        norms = np.sqrt(self.base2 * self.cand2)
        cosines = np.divide(self.product, norms, out=np.zeros(len(norms)), where=norms > 0)
        return np.where(self.n_pair == 0, nan, np.where(self.diff2 == 0, 1.0, cosines))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between all values of both; 1 where both are zero."""
        if not self.n_pair.any():
            return nan
        norm = float(self.base2.sum() * self.cand2.sum()) ** 0.5
        return float(self.product.sum()) / norm if norm else float(self.diff2.sum() == 0)


def relative(diff2: float, base2: float) -> float:
    """√(diff2 / base2), 0 where both are 0."""
    if diff2 == 0:
        return 0.0
    return float((diff2 / base2) ** 0.5) if base2 else float("inf")


def row_sums(base: F32Array, cand: F32Array) -> RowSums:
    """Sums of two blocks (n_rows, n_per_row). Releases the GIL. Raises ShapeError where they differ in shape."""
    from quant.kernels import difference

    if base.ndim != 2 or base.shape != cand.shape:
        raise ShapeError(f"rows of shape {base.shape} and {cand.shape} cannot be compared")
    n = len(base)
    counts = np.empty((2, n), dtype=np.int64)
    out = RowSums(np.empty(n), np.empty(n), np.empty(n), np.empty(n), *counts)
    difference.row_sums(np.ascontiguousarray(base), np.ascontiguousarray(cand), *out)
    return out


def joined(parts: list[RowSums]) -> RowSums:
    """Sums of consecutive slabs as those of the whole."""
    return RowSums(*(np.concatenate(field) for field in zip(*parts, strict=True)))
