"""Weights that a checkpoint stores in few bits, with scales beside them: rows of float32, slab by slab.

Knows the layouts of FP8, MXFP4, NVFP4, GPTQ, AWQ, compressed-tensors and bitsandbytes NF4. Does not know how a
checkpoint spells their names (`unpack`). Every value is computed in float32 as the format's own library does.

    FP8     w = value(byte) · scale[row // n, column // m]
    FP4     byte i of a row holds column 2i in its low half, column 2i + 1 in its high half
    GPTQ    int32 (columns / 8, rows): eight columns, lowest bits first
    AWQ     int32 (columns, rows / 8): rows 0 2 4 6 1 3 5 7, lowest bits first
"""

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import CheckpointError
from ggufkit.formats.tensor import F32Array, SourceFile, TensorRef, U8Array, widen
from quant import dequantize, quant_type

FP8 = ("F8_E4M3", "F8_E5M2")
FP4_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)
AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # where in the word row i of eight lies


class Packed(Protocol):
    """A matrix of few bits: (n_rows, n_per_row) float32 when read."""

    def rows(self, start: int, stop: int) -> F32Array: ...


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
        assert isinstance(self.packed, Mxfp4)
        return self.packed.blocks(self.first + start, self.first + stop)


def packed_ref(name: str, shape: tuple[int, ...], dtype: str, codes: TensorRef, packed: Packed) -> PackedRef:
    return PackedRef(name, shape, dtype, codes.file, codes.offset, codes.nbytes, packed)


@cache
def _fp8_values(dtype: str) -> F32Array:
    """The 256 values of a byte. E5M2 is the upper half of a float16; E4M3 has no infinity, 0x7F and 0xFF are NaN."""
    codes = np.arange(256)
    if dtype == "F8_E5M2":
        return (codes << 8).astype(np.uint16).view(np.float16).astype(np.float32)
    exponent, fraction = (codes >> 3) & 15, codes & 7
    value = np.where(exponent > 0, np.ldexp(1 + fraction / 8, exponent - 7), np.ldexp(fraction / 8, -6))
    value[(codes & 127) == 127] = np.nan
    return np.where(codes > 127, -value, value).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Fp8:
    """Bytes times the scale of their block of `block` rows and columns; scales (n_blocks down, n_blocks across)."""

    codes: TensorRef
    scales: TensorRef
    block: tuple[int, int]

    def rows(self, start: int, stop: int) -> F32Array:
        w = _fp8_values(self.codes.dtype)[self.codes.raw_rows(start, stop)]
        n, m = self.block
        across = -(-self.codes.n_per_row // m)
        first, last = start // n, (stop - 1) // n + 1
        scales = _values(self.scales, first * across, last * across).reshape(-1, across)
        wide = scales if across == 1 else np.repeat(scales, m, axis=1)[:, : self.codes.n_per_row]
        w *= wide[np.arange(start, stop) // n - first]
        return w


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """Blocks of 32 with a power of two each: codes (…, 16 bytes a block), exponents (…, one byte a block)."""

    codes: TensorRef
    exponents: TensorRef
    n_per_row: int

    def blocks(self, start: int, stop: int) -> U8Array:
        """Rows as ggml's block_mxfp4: the exponent, then bytes that hold element j low and j + 16 high."""
        n = self.n_per_row // 32
        codes = _bytes(self.codes, start * n * 16, stop * n * 16).reshape(-1, 16)
        low_first = np.stack([codes & 15, codes >> 4], axis=-1).reshape(-1, 32)
        out = np.empty((len(codes), 17), dtype=np.uint8)
        out[:, 0] = _bytes(self.exponents, start * n, stop * n)
        out[:, 1:] = low_first[:, :16] | (low_first[:, 16:] << 4)
        return out.reshape(stop - start, n * 17)

    def rows(self, start: int, stop: int) -> F32Array:
        return dequantize(self.blocks(start, stop), quant_type("MXFP4"))


@dataclass(frozen=True, slots=True)
class Nvfp4:
    """Blocks of 16 with an FP8 scale each, and one float32 scale of the tensor, which is divided by where `inverse`."""

    codes: TensorRef
    scales: TensorRef
    whole: TensorRef | None
    inverse: bool = False

    def rows(self, start: int, stop: int) -> F32Array:
        codes = self.codes.raw_rows(start, stop)
        w = FP4_VALUES[np.stack([codes & 15, codes >> 4], axis=-1)].reshape(stop - start, -1, 16)
        scales = _fp8_values(self.scales.dtype)[self.scales.raw_rows(start, stop)]
        if self.whole is not None:
            whole = _values(self.whole, 0, 1)[0]
            scales = scales / whole if self.inverse else scales * whole
        return (w * scales[:, :, None]).reshape(stop - start, -1)


@dataclass(frozen=True, slots=True)
class Gptq:
    """Four or eight bits: w = (code - zero) · scale of the column's group.

    group_of  the group of each column, or None where columns lie in groups of `group_size` in order
    plus_one  zeros are stored less one (GPTQ's first format)
    """

    codes: TensorRef  # int32 (n_per_row · bits / 32, n_rows)
    zeros: TensorRef  # int32 (n_group, n_rows · bits / 32)
    scales: TensorRef  # (n_group, n_rows)
    group_of: TensorRef | None
    bits: int
    group_size: int
    plus_one: bool

    def rows(self, start: int, stop: int) -> F32Array:
        per_word, mask = 32 // self.bits, (1 << self.bits) - 1
        shifts = np.arange(0, 32, self.bits, dtype=np.uint32)
        words = _word_columns(self.codes, start, stop)  # (n_per_row / per_word, n)
        codes = ((words[:, None, :] >> shifts[None, :, None]) & mask).reshape(-1, stop - start)
        first, last = start // per_word, -(-stop // per_word)
        packed = _word_columns(self.zeros, first, last)
        zeros = ((packed[:, :, None] >> shifts) & mask).reshape(len(packed), -1)
        zeros = zeros[:, start - first * per_word : stop - first * per_word].astype(np.int32) + int(self.plus_one)
        scales = self.scales.columns(start, stop).T  # (n_group, n)
        groups = self._groups(len(codes))
        return np.ascontiguousarray((scales[groups] * (codes.astype(np.int32) - zeros[groups]).astype(np.float32)).T)

    def _groups(self, n_per_row: int) -> NDArray[np.int64]:
        if self.group_of is None:
            return np.arange(n_per_row) // self.group_size
        groups = _bytes(self.group_of, 0, 4 * n_per_row).view(np.int32).astype(np.int64)
        n_group = self.scales.shape[0]
        if groups.min() < 0 or groups.max() >= n_group:
            raise CheckpointError(f"{self.group_of.file.path}: {self.group_of.name} names groups beyond {n_group}.")
        return groups


@dataclass(frozen=True, slots=True)
class Awq:
    """Four bits: w = (code - zero) · scale of the column's group."""

    codes: TensorRef  # int32 (n_per_row, n_rows / 8)
    zeros: TensorRef  # int32 (n_group, n_rows / 8)
    scales: TensorRef  # (n_group, n_rows)
    group_size: int

    def rows(self, start: int, stop: int) -> F32Array:
        first, last = start // 8, -(-stop // 8)
        mine = slice(start - first * 8, stop - first * 8)
        codes = _awq_codes(self.codes, first, last)[:, mine]
        zeros = _awq_codes(self.zeros, first, last)[:, mine]
        scales = self.scales.columns(start, stop).T
        groups = np.arange(len(codes)) // self.group_size
        return np.ascontiguousarray(((codes - zeros[groups]).astype(np.float32) * scales[groups]).T)


@dataclass(frozen=True, slots=True)
class Groups:
    """compressed-tensors' packed integers: rows of int32 words, a scale a group, zeros packed along the rows if any."""

    codes: TensorRef  # int32 (n_rows, n_per_row · bits / 32)
    scales: TensorRef  # (n_rows, n_group)
    zeros: TensorRef | None  # int32 (n_rows · bits / 32, n_group)
    bits: int
    group_size: int

    def rows(self, start: int, stop: int) -> F32Array:
        per_word, mask = 32 // self.bits, (1 << self.bits) - 1
        shifts = np.arange(0, per_word * self.bits, self.bits, dtype=np.uint32)
        words = self.codes.raw_rows(start, stop).view(np.uint32)
        codes = ((words[:, :, None] >> shifts) & mask).reshape(stop - start, -1).astype(np.int32)
        scales = widen(self.scales.raw_rows(start, stop), self.scales.dtype)
        offset: NDArray[np.int32] = np.full_like(scales, 1 << (self.bits - 1), dtype=np.int32)
        if self.zeros is not None:
            first, last = start // per_word, -(-stop // per_word)
            packed = self.zeros.raw_rows(first, last).view(np.uint32)
            zeros = ((packed[:, None, :] >> shifts[None, :, None]) & mask).reshape(-1, packed.shape[1])
            offset = zeros[start - first * per_word : stop - first * per_word].astype(np.int32)
        n_per_row = scales.shape[1] * self.group_size
        grouped = codes[:, :n_per_row].reshape(stop - start, -1, self.group_size)
        return ((grouped - offset[:, :, None]).astype(np.float32) * scales[:, :, None]).reshape(stop - start, -1)


@dataclass(frozen=True, slots=True)
class Nf4:
    """bitsandbytes: two values a byte, the earlier one high, over the whole tensor; a largest magnitude each block.

    values     what the 16 codes mean
    magnitude  of each block: float32, or codes of 8 bits with `nested` (their values, their magnitudes, an offset)
    """

    codes: TensorRef
    n_per_row: int
    block: int
    values: F32Array
    magnitude: TensorRef
    nested: tuple[F32Array, TensorRef, int, float] | None

    def rows(self, start: int, stop: int) -> F32Array:
        begin, end = start * self.n_per_row, stop * self.n_per_row
        first, last = begin // self.block, -(-end // self.block)
        codes = _bytes(self.codes, first * self.block // 2, min(last * self.block // 2, self.codes.nbytes))
        w = self.values[np.stack([codes >> 4, codes & 15], axis=-1).reshape(-1)]
        w *= np.repeat(self._magnitudes(first, last), self.block)[: len(w)]
        return w[begin - first * self.block :][: end - begin].reshape(stop - start, self.n_per_row)

    def _magnitudes(self, first: int, last: int) -> F32Array:
        if self.nested is None:
            return _values(self.magnitude, first, last)
        table, scales, size, offset = self.nested
        codes = _bytes(self.magnitude, first, last)
        low, high = first // size, (last - 1) // size + 1
        of_block = _values(scales, low, high)[np.arange(first, last) // size - low]
        return table[codes] * of_block + np.float32(offset)


def _bytes(ref: TensorRef, start: int, stop: int) -> U8Array:
    return ref.file.pread(ref.offset + start, stop - start)


def _values(ref: TensorRef, start: int, stop: int) -> F32Array:
    """Elements of a tensor of floats, whatever its shape."""
    size = {"F32": 4, "F16": 2, "BF16": 2}[ref.dtype]
    return widen(_bytes(ref, start * size, stop * size), ref.dtype)


def _word_columns(ref: TensorRef, start: int, stop: int) -> NDArray[np.uint32]:
    """Columns [start, stop) of a matrix of int32."""
    out = np.empty((ref.n_rows, stop - start), dtype=np.uint32)
    for i in range(ref.n_rows):
        out[i] = _bytes(ref, i * ref.row_nbytes + 4 * start, i * ref.row_nbytes + 4 * stop).view(np.uint32)
    return out


def _awq_codes(ref: TensorRef, first: int, last: int) -> NDArray[np.int32]:
    words = _word_columns(ref, first, last)
    shifts = (4 * AWQ_ORDER).astype(np.uint32)
    return ((words[:, :, None] >> shifts) & 15).reshape(len(words), -1).astype(np.int32)
