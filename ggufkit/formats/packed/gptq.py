"""GPTQ and AWQ: whole numbers of few bits in words of 32, a scale and a zero a group of columns.

GPTQ  int32 (columns / 8, rows): eight columns, lowest bits first
AWQ   int32 (columns, rows / 8): rows 0 2 4 6 1 3 5 7, lowest bits first
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import CheckpointError
from ggufkit.formats.packed.finder import FLOATS, INTEGERS, Finder, match
from ggufkit.formats.packed.ref import bytes_of, codes_of, word_columns
from ggufkit.formats.tensor import F32Array, TensorRef

BITS = (2, 3, 4, 8)
AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # where in the word row i of eight lies


@dataclass(frozen=True, slots=True)
class Gptq:
    """Two, three, four or eight bits: w = (code - zero) · scale of the column's group.

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
        n_per_row = self.codes.shape[0] * 32 // self.bits
        codes = codes_of(word_columns(self.codes, start, stop), self.bits, 0, n_per_row)  # (n_per_row, n)
        packed = word_columns(self.zeros, start // 32 * self.bits, -(-stop * self.bits // 32))
        zeros = codes_of(packed.T, self.bits, start % 32, start % 32 + stop - start).T + int(self.plus_one)
        scales = self.scales.columns(start, stop).T  # (n_group, n)
        groups = self._groups(len(codes))
        return np.ascontiguousarray((scales[groups] * (codes - zeros[groups]).astype(np.float32)).T)

    def _groups(self, n_per_row: int) -> NDArray[np.int64]:
        if self.group_of is None:
            return np.arange(n_per_row) // self.group_size
        groups = bytes_of(self.group_of, 0, 4 * n_per_row).view(np.int32).astype(np.int64)
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


def _awq_codes(ref: TensorRef, first: int, last: int) -> NDArray[np.int32]:
    words = word_columns(ref, first, last)
    shifts = (4 * AWQ_ORDER).astype(np.uint32)
    return ((words[:, :, None] >> shifts) & 15).reshape(len(words), -1).astype(np.int32)


def gptq_or_awq(finder: Finder, name: str, ref: TensorRef) -> TensorRef | None:
    if not name.endswith(".qweight") or ref.dtype not in INTEGERS or len(ref.shape) != 2:
        return None
    base = name.removesuffix(".qweight")
    zeros, scales = finder.needed(f"{base}.qzeros", *INTEGERS), finder.needed(f"{base}.scales", *FLOATS)
    n_group, n_rows = scales.shape if len(scales.shape) == 2 else (0, 0)
    bits = zeros.n_per_row * 32 // max(n_rows, 1)  # what a matrix has; some have more than quantization_config says
    if bits not in BITS:
        bits = finder.number("bits", finder.number("w_bit", 4))
    if n_group and ref.shape[1] * 8 == n_rows and ref.shape[0] % n_group == 0 and bits == 4:
        match(zeros, (n_group, n_rows // 8))
        awq = Awq(ref, zeros, scales, ref.shape[0] // n_group)
        return finder.made("AWQ", f"{base}.weight", (n_rows, ref.shape[0]), ref, awq)
    n_per_row = ref.shape[0] * 32 // bits
    if bits not in BITS or not n_group or ref.shape[1] != n_rows:
        raise CheckpointError(f"{ref.file.path}: {name} has shape {list(ref.shape)}, no codes of {bits} bits.")
    match(zeros, (n_group, n_rows * bits // 32))
    groups = finder.part(f"{base}.g_idx", *INTEGERS, required=finder.config.get("desc_act") is True)
    if groups is not None:
        match(groups, (n_per_row,))
    plus_one = finder.config.get("checkpoint_format", "gptq") == "gptq"
    packed = Gptq(ref, zeros, scales, groups, bits, -(-n_per_row // n_group), plus_one)
    return finder.made(f"GPTQ of {bits} bits", f"{base}.weight", (n_rows, n_per_row), ref, packed)
