"""Whole bytes with a scale a row, or a group of columns: compressed-tensors' INT8, bitsandbytes' LLM.int8."""

from dataclasses import dataclass

import numpy as np

from ggufkit.formats.packed.finder import FLOATS, Finder, match, weight_group
from ggufkit.formats.packed.ref import bytes_of, values_of
from ggufkit.formats.tensor import F32Array, TensorRef

BNB = np.float32(7.874015718698502e-3)  # 1 / 127, as bitsandbytes rounds it


@dataclass(frozen=True, slots=True)
class Int8:
    """w = (code - zero) · scale of the row's group · factor."""

    codes: TensorRef  # int8 (n_rows, n_per_row)
    scales: TensorRef  # n_rows · n_group floats, or one
    zeros: TensorRef | None  # int8, as many
    n_group: int
    factor: np.float32

    def rows(self, start: int, stop: int) -> F32Array:
        codes = self.codes.raw_rows(start, stop).view(np.int8).reshape(stop - start, self.n_group, -1)
        whole = int(np.prod(self.scales.shape)) == 1
        low, high = (0, 1) if whole else (start * self.n_group, stop * self.n_group)
        scales = values_of(self.scales, low, high).reshape(-1, 1 if whole else self.n_group, 1)
        w = codes.astype(np.float32)
        if self.zeros is not None:
            zeros = bytes_of(self.zeros, low, high).view(np.int8).reshape(scales.shape)
            w -= zeros.astype(np.float32)
        w *= scales
        if self.factor != 1:
            w *= self.factor
        return w.reshape(stop - start, -1)


def int8(finder: Finder, name: str, ref: TensorRef) -> TensorRef | None:
    """X.weight with X.weight_scale, or with bitsandbytes' X.SCB."""
    if ref.dtype != "I8" or not name.endswith(".weight") or len(ref.shape) != 2:
        return None
    n_rows, n_per_row = ref.shape
    if (scales := finder.part(f"{name.removesuffix('weight')}SCB", "F32", required=False)) is not None:
        match(scales, (n_rows,))
        return finder.made("bitsandbytes, 8 bits", name, ref.shape, ref, Int8(ref, scales, None, 1, BNB))
    scales = finder.part(f"{name}_scale", *FLOATS, required=False)
    if scales is None:
        return None
    zeros = finder.part(f"{name}_zero_point", "I8", required=weight_group(finder).get("symmetric") is False)
    if int(np.prod(scales.shape)) == 1:
        n_group = 1
    elif len(scales.shape) == 2 and n_per_row % max(1, scales.n_per_row) == 0:
        n_group = scales.n_per_row
        match(scales, (n_rows, n_group))
    else:
        n_group = 1
        match(scales, (n_rows,))
    if zeros is not None:
        match(zeros, scales.shape)
    return finder.made("INT8", name, ref.shape, ref, Int8(ref, scales, zeros, n_group, np.float32(1)))
