"""`Grid`: where the levels of a block type lie, described once, and what a block says of its values.

    x̂[i] = scale[i] · values[level[i]] + offset[i]        i = 0 … block_size - 1

`values` is 0, 1, 2, … for even grids, and the 16 values of IQ4_NL for the two uneven ones. Scales and offsets are
constant over a sub-block, or over the block. So a type is described by its planes of bits and its float16 numbers.

    plane   weight i stores `n_bits` bits of its level, from bit `low` on, in byte `byte[i]` at bit `shift[i]`

Of super-blocks, scale = d · code and offset = -dmin · code of a sub-block, whose integers lie in planes as well; of
small blocks, scale = d and offset = dmin.

Knows layouts. Does not search scales (`quant.quantize` does) and does not choose levels (`quant.feedback` does).
Source: ggml-common.h, ggml-quants.c dequantize_row_*.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from quant.errors import UnknownTypeError
from quant.types import QuantType, quant_type

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]
I32Array = NDArray[np.int32]
I64Array = NDArray[np.int64]

_IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # ggml-common.h kvalues_iq4nl


@dataclass(frozen=True, slots=True)
class Plane:
    """Bits [low, low + n_bits) of every level: byte and shift of each weight, (block_size,) each; or of every code of
    a sub-block."""

    byte: I64Array
    shift: I64Array
    low: int
    n_bits: int


@dataclass(frozen=True, slots=True)
class Codes:
    """An integer for each sub-block: `planes` store code + zero, exclusive-or `flip`, in `n_bits`."""

    planes: tuple[Plane, ...]
    n_bits: int
    zero: int = 0
    flip: int = 0

    @property
    def n_sub(self) -> int:
        """Sub-blocks of a block."""
        return len(self.planes[0].byte)

    @property
    def range(self) -> tuple[int, int]:
        """The least and the greatest that can be stored."""
        return -self.zero, (1 << self.n_bits) - 1 - self.zero

    def of(self, blocks: U8Array) -> I32Array:
        """(n, n_sub) of `blocks` (n, type_size)."""
        return (_taken(blocks, self.planes) ^ np.uint8(self.flip)).astype(np.int32) - self.zero

    def put(self, blocks: U8Array, codes: I32Array) -> U8Array:
        """`blocks` with these codes in place of theirs."""
        return _put(blocks, self.planes, (codes + self.zero).astype(np.uint8) ^ np.uint8(self.flip))


@dataclass(frozen=True, slots=True)
class Grid:
    """Layout of one type.

    planes    where level bits lie
    values    (n_level,) float32, the value of each level before scale and offset
    d_at      byte of the float16 that multiplies all scales of the block
    dmin_at   byte of the float16 that multiplies all offsets, None where there are none
    flip      exclusive-or between a level and its stored bits (Q8_0 stores signed bytes)
    scale_codes, min_codes  the integers of sub-blocks, None where there are none
    """

    qtype: QuantType
    planes: tuple[Plane, ...]
    values: F32Array
    d_at: int
    dmin_at: int | None = None
    flip: int = 0
    scale_codes: Codes | None = None
    min_codes: Codes | None = None

    @property
    def n_level(self) -> int:
        return len(self.values)

    def pack(self, blocks: U8Array, level: U8Array) -> U8Array:
        """`blocks` (n, type_size) with their levels replaced by `level` (n, block_size); headers stay."""
        return _put(blocks, self.planes, level ^ np.uint8(self.flip))

    def unpack(self, blocks: U8Array) -> U8Array:
        """Levels (n, block_size) of `blocks` (n, type_size)."""
        return _taken(blocks, self.planes) ^ np.uint8(self.flip)

    def scales(self, blocks: U8Array) -> tuple[F32Array, F32Array]:
        """Scale and offset of every weight, (n, block_size) each, of `blocks` (n, type_size)."""
        d, dmin = (half[:, None] for half in self.halves(blocks))
        scale = d if self.scale_codes is None else d * self.scale_codes.of(blocks)
        offset = dmin if self.min_codes is None else -dmin * self.min_codes.of(blocks)
        return self._each_weight(scale), self._each_weight(offset)

    def _each_weight(self, of_sub: NDArray[np.floating]) -> F32Array:
        return np.repeat(of_sub.astype(np.float32), self.qtype.block_size // of_sub.shape[1], axis=1)

    def halves(self, blocks: U8Array) -> tuple[F32Array, F32Array]:
        """The float16 numbers d and dmin of each block (n,); dmin is 0 where the type has none."""
        d = blocks[:, self.d_at : self.d_at + 2].copy().view(np.float16)[:, 0].astype(np.float32)
        if self.dmin_at is None:
            return d, np.zeros_like(d)
        return d, blocks[:, self.dmin_at : self.dmin_at + 2].copy().view(np.float16)[:, 0].astype(np.float32)

    def with_halves(self, blocks: U8Array, d: F32Array, dmin: F32Array) -> U8Array:
        """`blocks` with other float16 numbers; scale and minimum codes and levels stay."""
        out = blocks.copy()
        out[:, self.d_at : self.d_at + 2] = d.astype(np.float16)[:, None].view(np.uint8)
        if self.dmin_at is not None:
            out[:, self.dmin_at : self.dmin_at + 2] = dmin.astype(np.float16)[:, None].view(np.uint8)
        return out


def has_grid(name: str) -> bool:
    return name in _GRIDS


@cache
def grid_of(qtype: QuantType) -> Grid:
    """The layout of a type. Raises UnknownTypeError for types that have none here."""
    if qtype.name not in _GRIDS:
        raise UnknownTypeError(f"{qtype} has no error feedback. Types that have: {', '.join(sorted(_GRIDS))}")
    planes, values, d_at, dmin_at, flip = _GRIDS[qtype.name]
    codes = _CODES.get(qtype.name, (None, None))
    return Grid(qtype, tuple(planes), np.array(values, dtype=np.float32), d_at, dmin_at, flip, *codes)


def _taken(blocks: U8Array, planes: tuple[Plane, ...]) -> U8Array:
    """What these planes store, (n, length of a plane)."""
    from quant.kernels.planes import take

    out = np.zeros((len(blocks), len(planes[0].byte)), dtype=np.uint8)
    for plane in planes:
        take(blocks, plane.byte, plane.shift, (1 << plane.n_bits) - 1, plane.low, out)
    return out


def _put(blocks: U8Array, planes: tuple[Plane, ...], stored: U8Array) -> U8Array:
    """`blocks` with `stored` (n, length of a plane) in these planes; other bits stay."""
    from quant.kernels.planes import put

    out = blocks.copy()
    for plane in planes:
        put(out, plane.byte, plane.shift, (1 << plane.n_bits) - 1, plane.low, stored)
    return out


def _nibbles(at: int, half: int, n: int) -> Plane:
    """Groups of 2 * half weights in half bytes: the first half below, the second above."""
    i = np.arange(n)
    return Plane(at + i // (2 * half) * half + i % half, 4 * (i % (2 * half) // half), 0, 4)


def _pairs(at: int, low: int) -> Plane:
    """128 weights in 32 bytes, two bits each, 32 weights side by side."""
    i = np.arange(256)
    return Plane(at + i // 128 * 32 + i % 32, 2 * (i % 128 // 32), low, 2)


def _bits(at: int, low: int) -> Plane:
    """256 weights in 32 bytes, one bit each, 32 weights side by side."""
    i = np.arange(256)
    return Plane(at + i % 32, i // 32, low, 1)


def _fifth(at: int) -> Plane:
    """32 weights in the bits of a 32-bit word."""
    i = np.arange(32)
    return Plane(at + i // 8, i % 8, 4, 1)


def _q6_low() -> Plane:
    i = np.arange(256)
    return Plane(i // 128 * 64 + i % 64, 4 * (i % 128 // 64), 0, 4)


def _bytes(at: int) -> Plane:
    i = np.arange(32)
    return Plane(at + i, np.zeros(32, dtype=np.int64), 0, 8)


# name: planes, values, byte of d, byte of dmin (or m), flip
_GRIDS: dict[str, tuple[list[Plane], range | tuple[int, ...], int, int | None, int]] = {
    "Q2_K": ([_pairs(16, 0)], range(4), 80, 82, 0),
    "Q3_K": ([_pairs(32, 0), _bits(0, 2)], range(-4, 4), 108, None, 0),
    "Q4_K": ([_nibbles(16, 32, 256)], range(16), 0, 2, 0),
    "Q5_K": ([_nibbles(48, 32, 256), _bits(16, 4)], range(32), 0, 2, 0),
    "Q6_K": ([_q6_low(), _pairs(128, 4)], range(-32, 32), 208, None, 0),
    "Q8_0": ([_bytes(2)], range(-128, 128), 0, None, 128),
    "Q4_0": ([_nibbles(2, 16, 32)], range(-8, 8), 0, None, 0),
    "Q4_1": ([_nibbles(4, 16, 32)], range(16), 0, 2, 0),
    "Q5_0": ([_nibbles(6, 16, 32), _fifth(2)], range(-16, 16), 0, None, 0),
    "Q5_1": ([_nibbles(8, 16, 32), _fifth(4)], range(32), 0, 2, 0),
    "IQ4_NL": ([_nibbles(2, 16, 32)], _IQ4_VALUES, 0, None, 0),
    "IQ4_XS": ([_nibbles(8, 16, 256)], _IQ4_VALUES, 0, None, 0),
}


def _plane(places: list[tuple[int, int]], low: int, n_bits: int) -> Plane:
    byte, shift = np.array(places).T
    return Plane(byte, shift, low, n_bits)


def _packed_scales() -> Codes:
    """Six bits each of eight scales in twelve bytes from byte 4 on; those of the last four in two parts."""
    low = [(4 + j, 0) if j < 4 else (8 + j, 0) for j in range(8)]
    high = [(4 + j, 4) if j < 4 else (j, 6) for j in range(8)]
    return Codes((_plane(low, 0, 4), _plane(high, 4, 2)), 6)


def _packed_mins() -> Codes:
    """Those of the minimums beside them."""
    low = [(8 + j, 0) if j < 4 else (8 + j, 4) for j in range(8)]
    high = [(8 + j, 4) if j < 4 else (4 + j, 6) for j in range(8)]
    return Codes((_plane(low, 0, 4), _plane(high, 4, 2)), 6)


def _q3_scales() -> Codes:
    low = [(96 + j % 8, 4 * (j // 8)) for j in range(16)]
    high = [(104 + j % 4, 2 * (j // 4)) for j in range(16)]
    return Codes((_plane(low, 0, 4), _plane(high, 4, 2)), 6, zero=32)


def _iq4_xs_scales() -> Codes:
    low = [(4 + j // 2, 4 * (j % 2)) for j in range(8)]
    high = [(2 + j // 4, 2 * (j % 4)) for j in range(8)]
    return Codes((_plane(low, 0, 4), _plane(high, 4, 2)), 6, zero=32)


# name: codes of scales, of minimums
_CODES: dict[str, tuple[Codes, Codes | None]] = {
    "Q2_K": (
        Codes((_plane([(j, 0) for j in range(16)], 0, 4),), 4),
        Codes((_plane([(j, 4) for j in range(16)], 0, 4),), 4),
    ),
    "Q3_K": (_q3_scales(), None),
    "Q4_K": (_packed_scales(), _packed_mins()),
    "Q5_K": (_packed_scales(), _packed_mins()),
    "Q6_K": (Codes((_plane([(192 + j, 0) for j in range(16)], 0, 8),), 8, zero=128, flip=128), None),
    "IQ4_XS": (_iq4_xs_scales(), None),
}


def grid_named(name: str) -> Grid:
    return grid_of(quant_type(name))
