"""FP8: bytes times a scale of their block, row or matrix, a float or a power of two.

w = value(byte) · scale[row // n, column // m]
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ggufkit.errors import CheckpointError
from ggufkit.formats.packed.finder import FLOATS, Finder, weight_group
from ggufkit.formats.packed.ref import EXPONENTS, values_of
from ggufkit.formats.tensor import F32Array, TensorRef

FP8 = ("F8_E4M3", "F8_E5M2")


@cache
def fp8_values(dtype: str) -> F32Array:
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
        w = fp8_values(self.codes.dtype)[self.codes.raw_rows(start, stop)]
        n, m = self.block
        across = -(-self.codes.n_per_row // m)
        first, last = start // n, (stop - 1) // n + 1
        scales = values_of(self.scales, first * across, last * across).reshape(-1, across)
        wide = scales if across == 1 else np.repeat(scales, m, axis=1)[:, : self.codes.n_per_row]
        w *= wide[np.arange(start, stop) // n - first]
        return w


def fp8(finder: Finder, name: str, ref: TensorRef) -> TensorRef | None:
    """X with X_scale_inv (DeepSeek), X_scale (compressed-tensors, ModelOpt): blocks, rows, or one scale for all.

    Mistral's own files call the scale of a.weight a.qscale_weight.
    """
    if ref.dtype not in FP8 or name.endswith(("_scale", "_scale_inv")):
        return None
    spellings = (f"{name}_scale_inv", f"{name}_scale", f"{name.removesuffix('weight')}qscale_weight")
    found = next((spelling for spelling in spellings if spelling in finder.tensors), None)
    if found is None:
        raise CheckpointError(f"{ref.file.path}: {name} is {ref.dtype} and has no {name}_scale_inv beside it.")
    scales = finder.needed(found, *FLOATS, *EXPONENTS)
    block = _block(finder, ref, scales)
    return finder.made("FP8", name, ref.shape, ref, Fp8(ref, scales, block))


def _block(finder: Finder, ref: TensorRef, scales: TensorRef) -> tuple[int, int]:
    """Rows and columns that share a scale, from the shapes; sizes that do not divide from quantization_config."""
    n_rows, n_per_row = ref.shape[-2:] if len(ref.shape) > 1 else (1, ref.n_per_row)
    stack = ref.n_rows // n_rows
    grid = tuple(scales.shape)
    if int(np.prod(grid)) == 1:
        return ref.n_rows, n_per_row
    if len(grid) == 1 or grid[-1] == 1:  # one a row, or one a matrix of the stack
        count = int(np.prod(grid))
        if ref.n_rows % count == 0 and count in (ref.n_rows, stack):
            return ref.n_rows // count, n_per_row
    if grid[:-1] == ref.shape[:-1] and n_per_row % grid[-1] == 0:  # groups along the rows
        return 1, n_per_row // grid[-1]
    stated = finder.config.get("weight_block_size") or weight_group(finder).get("block_structure") or [128, 128]
    fits = isinstance(stated, list) and len(stated) == 2 and all(isinstance(n, int) and n > 0 for n in stated)
    if fits:
        down, across = -(-n_rows // stated[0]), -(-n_per_row // stated[1])
        whole = grid[-2:] == (down, across) and int(np.prod(grid)) == stack * down * across
        if whole and (stack == 1 or n_rows % stated[0] == 0):
            return stated[0], stated[1]
    raise CheckpointError(
        f"{scales.file.path}: {scales.name} has shape {list(grid)}, which does not fit scales of {list(ref.shape)} in "
        f"blocks of {stated!r:.40}."
    )
