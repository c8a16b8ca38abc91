"""Weights that a checkpoint stores in few bits, with scales beside them: rows of float32, slab by slab.

Each format has a file here: how its codes lie and what they mean (a `Packed`), and how a checkpoint spells its parts (a
function that takes a `Finder`). Every value is computed in float32 as the format's own library does.
"""

from dataclasses import dataclass, fields, replace
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ggufkit.formats.source_file import SourceFile, U8Array
from ggufkit.formats.tensor import F32Array, TensorRef, widen

EXPONENTS = ("U8", "F8_E8M0")


class Packed(Protocol):
    """A matrix of few bits: (n_rows, n_per_row) float32 when read."""

    def rows(self, start: int, stop: int) -> F32Array: ...


@runtime_checkable
class Blocks(Packed, Protocol):
    """A format that is one of ggml's own types, too."""

    def blocks(self, start: int, stop: int) -> U8Array: ...


@dataclass(frozen=True, slots=True)
class PackedRef(TensorRef):
    """A tensor whose rows are computed. `dtype` is what a conversion stores; offset and nbytes are those of the codes.

    first  number of this tensor's first row in the packed matrix
    """

    packed: Packed
    first: int = 0

    @property
    def files(self) -> tuple[SourceFile, ...]:
        parts = (getattr(self.packed, each.name) for each in fields(self.packed))  # type: ignore[arg-type]
        return tuple(part.file for part in parts if isinstance(part, TensorRef))

    def sliced(self, start: int, stop: int) -> Self:
        nbytes = (stop - start) * self.row_nbytes
        return replace(
            self, shape=(stop - start, self.n_per_row), offset=self.offset + start * self.row_nbytes, nbytes=nbytes,
            first=self.first + start,
        )  # fmt: skip

    def rows(self, start: int, stop: int) -> F32Array:
        return self.packed.rows(self.first + start, self.first + stop)

    def columns(self, start: int, stop: int) -> F32Array:
        return self.rows(0, self.n_rows)[:, start:stop].T

    def raw_rows(self, start: int, stop: int) -> U8Array:
        """Blocks as ggml stores them, where the format is one of ggml's."""
        assert isinstance(self.packed, Blocks)
        return self.packed.blocks(self.first + start, self.first + stop)


def packed_ref(name: str, shape: tuple[int, ...], dtype: str, codes: TensorRef, packed: Packed) -> PackedRef:
    return PackedRef(name, shape, dtype, codes.file, codes.offset, codes.nbytes, packed)


def bytes_of(ref: TensorRef, start: int, stop: int) -> U8Array:
    return ref.file.pread(ref.offset + start, stop - start)


def values_of(ref: TensorRef, start: int, stop: int) -> F32Array:
    """Elements of a tensor of floats, or of powers of two (a byte e is 2 to the e - 127), whatever its shape."""
    if ref.dtype in EXPONENTS:
        return np.ldexp(np.float32(1), bytes_of(ref, start, stop).astype(np.int32) - 127)
    size = {"F32": 4, "F16": 2, "BF16": 2}[ref.dtype]
    return widen(bytes_of(ref, start * size, stop * size), ref.dtype)


def numbers_of(ref: TensorRef) -> NDArray[np.int64]:
    """All elements of a small tensor of whole numbers."""
    raw = bytes_of(ref, 0, ref.nbytes)
    return raw.view(np.int64 if ref.dtype == "I64" else np.int32).astype(np.int64)


def codes_of(words: NDArray[np.uint32], bits: int, start: int, stop: int) -> NDArray[np.int32]:
    """Numbers [start, stop) of `bits` bits from words along the first axis (n_words, n), lowest bits first.

    A number may begin in one word and end in the next.
    """
    if 32 % bits == 0:  # none does: twenty times faster
        per_word = 32 // bits
        first, shifts = start // per_word, np.arange(0, 32, bits, dtype=np.uint32)
        block = words[first : -(-stop // per_word)]
        numbers = ((block[:, None, :] >> shifts[:, None]) & ((1 << bits) - 1)).reshape(-1, words.shape[1])
        return numbers[start - first * per_word :][: stop - start].view(np.int32)
    at = np.arange(start, stop) * bits
    low = words[at // 32].astype(np.uint64)
    high = words[np.minimum(at // 32 + 1, len(words) - 1)].astype(np.uint64)
    both = (low | high << np.uint64(32)) >> (at % 32).astype(np.uint64)[:, None]
    return (both & np.uint64((1 << bits) - 1)).astype(np.int32)


def word_columns(ref: TensorRef, start: int, stop: int) -> NDArray[np.uint32]:
    """Columns [start, stop) of a matrix of int32."""
    out = np.empty((ref.n_rows, stop - start), dtype=np.uint32)
    for i in range(ref.n_rows):
        out[i] = bytes_of(ref, i * ref.row_nbytes + 4 * start, i * ref.row_nbytes + 4 * stop).view(np.uint32)
    return out
