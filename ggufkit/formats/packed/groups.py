"""compressed-tensors: X.weight_packed of integers in groups, or of FP4."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import CheckpointError
from ggufkit.formats.packed.finder import FLOATS, INTEGERS, Finder, config_groups, match, weight_group
from ggufkit.formats.packed.fp4 import fp4
from ggufkit.formats.packed.ref import codes_of, numbers_of
from ggufkit.formats.tensor import F32Array, TensorRef, widen


@dataclass(frozen=True, slots=True)
class Groups:
    """Integers in words along each row, a scale a group of columns, zeros in words along the rows if any.

    n_per_row  numbers of a row
    padded     numbers do not reach from one word into the next (older compressed-tensors)
    group_of   the group of each column (I32), or None where columns lie in groups in order
    """

    codes: TensorRef  # int32 (n_rows, n_per_row · bits / 32)
    scales: TensorRef  # (n_rows, n_group)
    zeros: TensorRef | None  # int32 (n_rows · bits / 32, n_group)
    group_of: TensorRef | None
    bits: int
    n_per_row: int
    padded: bool

    def rows(self, start: int, stop: int) -> F32Array:
        words = self.codes.raw_rows(start, stop).view(np.uint32)
        codes = self._numbers(words.T, 0, self.n_per_row).T
        scales = widen(self.scales.raw_rows(start, stop), self.scales.dtype)
        offset: NDArray[np.int32] = np.full_like(scales, 1 << (self.bits - 1), dtype=np.int32)
        if self.zeros is not None:
            per_word = 32 // self.bits if self.padded else 32
            first = start // per_word * (1 if self.padded else self.bits)
            last = -(-stop // per_word) if self.padded else -(-stop * self.bits // 32)
            packed = self.zeros.raw_rows(first, last).view(np.uint32)
            offset = self._numbers(packed, start % per_word, start % per_word + stop - start)
        groups = self._groups()
        return (codes - offset[:, groups]).astype(np.float32) * scales[:, groups]

    def _numbers(self, words: NDArray[np.uint32], start: int, stop: int) -> NDArray[np.int32]:
        if not self.padded:
            return codes_of(words, self.bits, start, stop)
        at, per_word = np.arange(start, stop), 32 // self.bits
        shifts = (at % per_word * self.bits).astype(np.uint32)[:, None]
        return ((words[at // per_word] >> shifts) & ((1 << self.bits) - 1)).astype(np.int32)

    def _groups(self) -> NDArray[np.int64]:
        n_group = self.scales.n_per_row
        if self.group_of is None:
            return np.arange(self.n_per_row) // (self.n_per_row // n_group)
        groups = numbers_of(self.group_of)
        if groups.min() < 0 or groups.max() >= n_group:
            raise CheckpointError(f"{self.group_of.file.path}: {self.group_of.name} names groups beyond {n_group}.")
        return groups


def packed_weight(finder: Finder, name: str, ref: TensorRef) -> TensorRef | None:
    """compressed-tensors: X.weight_packed of FP4 (U8) or of integers (I32)."""
    if not name.endswith(".weight_packed") or len(ref.shape) != 2:
        return None
    base = name.removesuffix("_packed")
    if ref.dtype == "U8":
        return fp4(finder, base, ref)
    if ref.dtype not in INTEGERS:
        return None
    scales = finder.needed(f"{base}_scale", *FLOATS)
    zeros = finder.part(f"{base}_zero_point", *INTEGERS, required=weight_group(finder).get("symmetric") is False)
    group_of = finder.part(f"{base}_g_idx", "I32", required=False)
    n_rows = ref.shape[0]
    if len(scales.shape) != 2 or not scales.n_per_row:
        raise CheckpointError(
            f"{scales.file.path}: {scales.name} has shape {list(scales.shape)}, wanted groups of rows."
        )
    match(scales, (n_rows, scales.n_per_row))
    bits, n_per_row, padded = _layout(finder, base, ref, scales)
    if zeros is not None:
        n_words = -(-n_rows // (32 // bits)) if padded else -(-n_rows * bits // 32)
        match(zeros, (n_words, scales.n_per_row))
    if group_of is not None:
        match(group_of, (n_per_row,))
    packed = Groups(ref, scales, zeros, group_of, bits, n_per_row, padded)
    return finder.made(f"{bits}-bit groups", base, (n_rows, n_per_row), ref, packed)


def _layout(finder: Finder, base: str, ref: TensorRef, scales: TensorRef) -> tuple[int, int, bool]:
    """(bits, numbers of a row, padded): what quantization_config says that fits the shapes."""
    shape = finder.part(f"{base}_shape", "I64", "I32", required=False)
    stated = numbers_of(shape).tolist() if shape is not None and shape.shape == (2,) else None
    for group in config_groups(finder):
        bits, size = group.get("num_bits", 4), group.get("group_size")
        if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 8:
            continue
        grouped = size * scales.n_per_row if isinstance(size, int) and size > 0 else ref.n_per_row * 32 // bits
        n_per_row = stated[1] if stated is not None else grouped
        fits = n_per_row > 0 and n_per_row % scales.n_per_row == 0 and (stated or ref.shape)[0] == ref.shape[0]
        if fits and ref.n_per_row == -(-n_per_row * bits // 32):
            return bits, n_per_row, False
        if fits and ref.n_per_row == -(-n_per_row // (32 // bits)):
            return bits, n_per_row, True
    raise CheckpointError(
        f"{ref.file.path}: {ref.name} has shape {list(ref.shape)} and {scales.name} {list(scales.shape)}, which fit no "
        "group of config.json's quantization_config."
    )
