"""Rows of float32 to blocks and back: checks the rows, picks the encoder, calls it.

Knows which encoders exist. Does not know files, tensor names or threads: callers cut tensors into slabs and
run `quantize` from as many threads as they like (every encoder releases the GIL, rows are independent).
"""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from quant import _ggml
from quant.errors import ImportanceError, NonFiniteError, ShapeError
from quant.kernels import KERNELS
from quant.types import QuantType

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]


class Encoder(StrEnum):
    """Who searches for scales: our kernels, or llama.cpp's reference (its exact bytes)."""

    GGUFKIT = "ggufkit"
    GGML = "ggml"


def quantize(
    w: F32Array,
    qtype: QuantType,
    *,
    importance: F32Array | None = None,
    encoder: Encoder = Encoder.GGUFKIT,
    allow_nonfinite: bool = False,
) -> U8Array:
    """Encode rows of float32 as ggml blocks.

    w           (n_rows, n_per_row), C order; n_per_row a multiple of qtype.block_size
    importance  (n_per_row,), non-negative, mean squared activation of each input column; one vector for all rows
    encoder     GGUFKIT falls back to GGML for types without a kernel of ours
    returns     (n_rows, n_per_row // block_size * type_size) uint8, the bytes GGUF stores

    Raises ShapeError, ImportanceError, NonFiniteError (names the first bad row, counted from 0).
    Rows are independent: encoding a slab equals slicing the whole. Source of GGML: ggml.h ggml_quantize_chunk.
    """
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused as such
        w = np.ascontiguousarray(w, dtype=np.float32)
    if w.ndim != 2:
        raise ShapeError(f"quantize takes (n_rows, n_per_row), got shape {w.shape}")
    out = np.empty((w.shape[0], qtype.row_nbytes(w.shape[1])), dtype=np.uint8)
    importance = _checked_importance(importance, w.shape[1], qtype)
    if not allow_nonfinite:
        require_finite(w)
    if not w.size:
        return out
    kernel = KERNELS.get(qtype.name) if encoder is Encoder.GGUFKIT else None
    if kernel is not None:
        kernel(w, importance, out)
    else:
        _ggml.quantize_chunk(qtype.ggml_type, w, importance, out)
    return out


def dequantize(blocks: U8Array, qtype: QuantType) -> F32Array:
    """Decode rows of blocks (n_rows, row_nbytes) to float32 (n_rows, n_per_row). Source: ggml to_float."""
    if blocks.ndim != 2 or blocks.shape[1] % qtype.type_size:
        raise ShapeError(f"{qtype} rows are multiples of {qtype.type_size} bytes, got shape {blocks.shape}")
    n_per_row = blocks.shape[1] // qtype.type_size * qtype.block_size
    blocks = np.ascontiguousarray(blocks)
    if qtype.name == "F32":
        return blocks.view(np.float32).copy()
    out = np.empty((blocks.shape[0], n_per_row), dtype=np.float32)
    _ggml.dequantize(qtype.ggml_type, blocks, out)
    return out


def _checked_importance(importance: F32Array | None, n_per_row: int, qtype: QuantType) -> F32Array | None:
    if importance is None:
        if qtype.requires_importance:
            raise ImportanceError(
                f"{qtype} cannot be encoded without importance. Pass --imatrix, or choose another type"
            )
        return None
    if importance.shape != (n_per_row,):
        raise ImportanceError(f"importance has shape {importance.shape}, the rows have {n_per_row} columns")
    with np.errstate(over="ignore"):
        importance = np.ascontiguousarray(importance, dtype=np.float32)
    bad = np.flatnonzero(~(np.isfinite(importance) & (importance >= 0)))
    if bad.size:
        raise ImportanceError(
            f"importance of column {bad[0]} is {importance[bad[0]]}, wanted a finite number from 0 up"
        )
    return importance


def require_finite(w: F32Array) -> None:
    """Raise NonFiniteError for the first row of `w` (n_rows, n_per_row) that holds NaN or an infinity."""
    # one pass without a mask of the whole slab: a row's sum is finite unless a weight is not (or the row overflows
    # float32, in which case the exact test decides)
    suspects = np.flatnonzero(~np.isfinite(np.einsum("ij->i", w)))
    for row in suspects:
        bad = np.flatnonzero(~np.isfinite(w[row]))
        if bad.size:
            raise NonFiniteError(f"row {row} column {bad[0]} is {w[row, bad[0]]}")
