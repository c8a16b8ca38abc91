"""`SourceFile`, `MemoryFile` and `TensorRef`: where the bytes of a tensor lie, and how to get rows of them as float32.

Knows offsets and number formats. Does not know what a tensor is called in GGUF or what will become of it.
Files are read with `pread`, never mapped: a file that shrinks while it is read gives an error, not SIGBUS.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Self

import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.errors import InputError
from ggufkit.formats.files import shown
from ggufkit.formats.source_file import SourceFile, U8Array

F32Array = NDArray[np.float32]

ITEM_NBYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
WEIGHT_DTYPES = frozenset(quant.TYPE_NAMES) | {"F64"}  # what `widen` can read


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Everything that is read of one stored tensor.

    name    as the file spells it
    shape   numpy order; the last axis is the row
    dtype   a `quant` type name: F32, F16, BF16, Q8_0, …; or F64
    offset  of its first byte in the file
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: SourceFile
    offset: int
    nbytes: int

    @property
    def n_per_row(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        return prod(self.shape[:-1])

    @property
    def row_nbytes(self) -> int:
        return self.nbytes // max(1, self.n_rows)

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """Every file that holds a part of it."""
        return (self.file,)

    def sliced(self, start: int, stop: int) -> Self:
        """Rows [start, stop) as a matrix of its own; nothing is read."""
        offset, n_rows = self.offset + start * self.row_nbytes, stop - start
        return replace(self, shape=(n_rows, self.n_per_row), offset=offset, nbytes=n_rows * self.row_nbytes)

    def raw_rows(self, start: int, stop: int) -> U8Array:
        """Stored bytes of rows [start, stop), all leading axes flattened: (stop - start, row_nbytes)."""
        raw = self.file.pread(self.offset + start * self.row_nbytes, (stop - start) * self.row_nbytes)
        return raw.reshape(stop - start, self.row_nbytes)

    def rows(self, start: int, stop: int) -> F32Array:
        """Rows [start, stop) widened to float32: (stop - start, n_per_row). InputError for a dtype that holds none."""
        if self.dtype not in WEIGHT_DTYPES:
            raise InputError(
                f"{self.file.path}: tensor {shown(self.name)} is stored as {self.dtype}, which is not a type for "
                "weights that can be read. Use the checkpoint in BF16, F16 or F32."
            )
        return widen(self.raw_rows(start, stop), self.dtype)

    def columns(self, start: int, stop: int) -> F32Array:
        """Columns [start, stop) of all rows as rows, float32 (stop - start, n_rows); whole rows of block types."""
        size = ITEM_NBYTES.get(self.dtype)
        if size is None:
            return self.rows(0, self.n_rows)[:, start:stop].T
        raw = np.empty((self.n_rows, (stop - start) * size), dtype=np.uint8)
        for i in range(self.n_rows):
            raw[i] = self.file.pread(self.offset + i * self.row_nbytes + start * size, raw.shape[1])
        return widen(raw, self.dtype).T


def widen(raw: U8Array, dtype: str) -> F32Array:
    """Rows of stored bytes to rows of float32. Exact for F16, BF16, F32; decoded for block types."""
    if dtype == "F32":
        return raw.view(np.float32)
    if dtype == "F16":
        return raw.view(np.float16).astype(np.float32)
    if dtype == "BF16":
        wide = raw.view(np.uint16).astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    if dtype == "F64":
        return raw.view(np.float64).astype(np.float32)
    return quant.dequantize(raw, quant.quant_type(dtype))
