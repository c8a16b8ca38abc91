"""FP4: MXFP4 (blocks of 32 with a power of two each) and NVFP4 (blocks of 16 with an FP8 scale each).

Byte i of a row holds column 2i in its low half, column 2i + 1 in its high half.
"""

from dataclasses import dataclass

import numpy as np

from ggufkit.formats.packed.finder import DECODED, Finder, match
from ggufkit.formats.packed.fp8 import FP8, fp8_values
from ggufkit.formats.packed.ref import bytes_of, values_of
from ggufkit.formats.source_file import U8Array
from ggufkit.formats.tensor import F32Array, TensorRef
from quant import dequantize, quant_type

FP4_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """Blocks of 32 with a power of two each: codes (…, 16 bytes a block), exponents (…, one byte a block)."""

    codes: TensorRef
    exponents: TensorRef
    n_per_row: int

    def blocks(self, start: int, stop: int) -> U8Array:
        """Rows as ggml's block_mxfp4: the exponent, then bytes that hold element j low and j + 16 high."""
        n = self.n_per_row // 32
        codes = bytes_of(self.codes, start * n * 16, stop * n * 16).reshape(-1, 16)
        low_first = np.stack([codes & 15, codes >> 4], axis=-1).reshape(-1, 32)
        out = np.empty((len(codes), 17), dtype=np.uint8)
        out[:, 0] = bytes_of(self.exponents, start * n, stop * n)
        out[:, 1:] = low_first[:, :16] | (low_first[:, 16:] << 4)
        return out.reshape(stop - start, n * 17)

    def rows(self, start: int, stop: int) -> F32Array:
        return dequantize(self.blocks(start, stop), quant_type("MXFP4"))


@dataclass(frozen=True, slots=True)
class Nvfp4:
    """Blocks of 16 with an FP8 scale each, and one float32 scale of the tensor, which is divided by where `inverse`."""

    codes: TensorRef
    scales: TensorRef
    whole: TensorRef
    inverse: bool = False

    def rows(self, start: int, stop: int) -> F32Array:
        codes = self.codes.raw_rows(start, stop)
        w = FP4_VALUES[np.stack([codes & 15, codes >> 4], axis=-1)].reshape(stop - start, -1, 16)
        scales = fp8_values(self.scales.dtype)[self.scales.raw_rows(start, stop)]
        whole = values_of(self.whole, 0, 1)[0]
        scales = scales / whole if self.inverse else scales * whole
        w *= scales[:, :, None]
        return w.reshape(stop - start, -1)


def mxfp4_of_gpt_oss(finder: Finder, name: str, ref: TensorRef) -> TensorRef | None:
    """X_blocks (…, n_rows, n_block, 16) and X_scales (…, n_rows, n_block)."""
    if not name.endswith("_blocks") or ref.dtype != "U8" or len(ref.shape) < 3 or ref.shape[-1] != 16:
        return None
    base = name.removesuffix("_blocks")
    exponents = finder.needed(f"{base}_scales", "U8", "F8_E8M0")
    match(exponents, ref.shape[:-1])
    shape = (*ref.shape[:-2], 32 * ref.shape[-2])
    return _mxfp4(finder, base, shape, Mxfp4(ref, exponents, shape[-1]))


def nvfp4_of_modelopt(finder: Finder, name: str, ref: TensorRef) -> TensorRef | None:
    scaled = {f"{name}_scale", f"{name}_scale_2"} & finder.tensors.keys()
    if ref.dtype != "U8" or not name.endswith(".weight") or len(ref.shape) != 2 or not scaled:
        return None
    return fp4(finder, name, ref)


def fp4(finder: Finder, base: str, codes: TensorRef) -> TensorRef:
    """Codes (n_rows, n / 2) with FP8 scales of 16 (NVFP4) or exponents of 32 (MXFP4)."""
    n_rows, n_per_row = codes.shape[0], 2 * codes.shape[1]
    scales = finder.needed(f"{base}_scale", *FP8, "U8", "F8_E8M0")
    if scales.dtype in FP8:
        match(scales, (n_rows, n_per_row // 16))
        inverse = finder.part(f"{base}_global_scale", "F32", required=False)
        whole = finder.needed(f"{base}_scale_2", "F32") if inverse is None else inverse
        match(whole, whole.shape if whole.shape in ((), (1,)) else (1,))
        packed = Nvfp4(codes, scales, whole, inverse=inverse is not None)
        return finder.made("NVFP4", base, (n_rows, n_per_row), codes, packed)
    match(scales, (n_rows, n_per_row // 32))
    return _mxfp4(finder, base, (n_rows, n_per_row), Mxfp4(codes, scales, n_per_row))


def _mxfp4(finder: Finder, name: str, shape: tuple[int, ...], packed: Mxfp4) -> TensorRef:
    return finder.made("MXFP4", name, shape, packed.codes, packed, dtype="MXFP4" if finder.keep else DECODED)
