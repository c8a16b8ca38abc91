"""`Bend`: what becomes of a stored matrix on its way into the file. Slabs of the result load on their own.

Knows rows, columns and values of one matrix. Does not know names, families or stacks: stacking and slicing cost nothing
and are done with `TensorRef.sliced` and the parts of a `ModelTensor`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ggufkit.formats.source_file import U8Array
from ggufkit.formats.tensor import F32Array, TensorRef

Order = NDArray[np.int64]
Value = Callable[[F32Array], F32Array]
T = TypeVar("T", np.float32, np.uint8)


@dataclass(frozen=True, slots=True)
class Bend:
    """The steps, in the order in which they are taken; those that are absent change nothing.

    transposed  rows of the result are columns of the source
    order       row i of the result is row order[i] of the source: any choice of rows, in any order
    columns     the same for columns; elements of a 1-D tensor are columns of its only row
    value       what becomes of each weight: float32 in, float32 out
    scale       float32, what each row of the result is multiplied with at the end; rows of 0 are zeros
    """

    transposed: bool = False
    order: Order | None = None
    columns: Order | None = None
    value: Value | None = None
    scale: F32Array | None = None

    @property
    def moves_whole_rows(self) -> bool:
        """Whether stored rows are taken over as they are, at most in another order."""
        return not self.transposed and self.columns is None and self.value is None and self.scale is None

    def rows(self, source: TensorRef, start: int, stop: int) -> F32Array:
        """Rows [start, stop) of the bent matrix, float32 (stop - start, n_per_row)."""
        read = source.columns if self.transposed else source.rows
        out = read(start, stop) if self.order is None else gathered(read, self.order[start:stop])
        if self.columns is not None:
            out = out[:, self.columns]
        out = out if self.value is None else self.value(out)
        if self.scale is not None:
            factor = self.scale[start:stop, None]
            out = np.where(factor == 0, np.float32(0), out * factor)
        return np.ascontiguousarray(out)

    def raw_rows(self, source: TensorRef, start: int, stop: int) -> U8Array:
        """Stored bytes of rows [start, stop), for a bend that moves whole rows only."""
        if self.order is None:
            return source.raw_rows(start, stop)
        return np.ascontiguousarray(gathered(source.raw_rows, self.order[start:stop]))


def gathered(read: Callable[[int, int], NDArray[T]], wanted: Order) -> NDArray[T]:
    """Rows `wanted`, in that order. Reads runs of neighbours at once; a single row between two runs is read along."""
    rows, back = np.unique(wanted, return_inverse=True)
    cuts = np.flatnonzero(np.diff(rows) > 2) + 1
    runs = [read(int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in np.split(rows, cuts)]
    return np.concatenate(runs)[back]


def plus_one(w: F32Array) -> F32Array:
    """Norms that are stored as the distance from 1 (Gemma, Qwen3-Next)."""
    return w + np.float32(1)


def negated_exp(w: F32Array) -> F32Array:
    """Decays of state-space layers, stored as logarithms: -exp(w), rounded once."""
    return -np.exp(w.astype(np.float64)).astype(np.float32)
