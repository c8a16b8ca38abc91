"""compressed-tensors: X.weight_packed of integers in groups, or of FP4."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import CheckpointError
from ggufkit.formats.packed.finder import FLOATS, INTEGERS, Finder, match, weight_group
from ggufkit.formats.packed.fp4 import fp4
from ggufkit.formats.tensor import F32Array, TensorRef, widen


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
    zeros = finder.part(f"{base}_zero_point", *INTEGERS, required=False)
    bits, n_row = weight_group(finder).get("num_bits", 4), ref.shape[0]
    size = weight_group(finder).get("group_size")
    if bits not in (4, 8) or not isinstance(size, int) or size < 1 or len(scales.shape) != 2:
        raise CheckpointError(f"{ref.file.path}: {name}: {bits!r:.20} bits in groups of {size!r:.20} cannot be read.")
    match(scales, (n_row, scales.shape[1]))
    if zeros is not None:
        match(zeros, (-(-n_row * bits // 32), scales.shape[1]))
    n_per_row = size * scales.shape[1]
    if not 0 <= ref.shape[1] * (32 // bits) - n_per_row < 32 // bits:
        raise CheckpointError(f"{ref.file.path}: {name} has shape {list(ref.shape)}, wanted rows of {n_per_row} codes.")
    return finder.made(f"{bits}-bit groups", base, (n_row, n_per_row), ref, Groups(ref, scales, zeros, bits, size))
