"""The only ctypes of `quant`: libggml-base as installed with llama-cpp-python.

Knows C symbols and pointers. Does not know tensors, files, threads or which encoder is preferred.
The library is found without importing llama_cpp, so that nothing is loaded but arithmetic.
"""

import ctypes
import functools
import importlib.util
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant import waiting
from quant.errors import LibraryError

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]

LIB_PATH = "LLAMA_CPP_LIB_PATH"
_SUFFIX = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")


class Traits(NamedTuple):
    """What ggml says of one type; `name` is ggml's own spelling (`q4_K`)."""

    name: str
    block_size: int
    type_size: int
    is_quantized: bool


class _TypeTraits(ctypes.Structure):
    # ggml.h: struct ggml_type_traits, the fields before the function pointers
    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    ]


def library_folder() -> Path:
    """Where libggml and libllama lie: the package, or where its own switch for another build, LIB_PATH, says.

    Raises LibraryError with what to install.
    """
    if (chosen := os.environ.get(LIB_PATH)) is not None:
        return Path(chosen).absolute()
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise LibraryError("llama-cpp-python is not installed. Install it: pip install 'llama-cpp-python==0.3.36'")
    return Path(spec.origin).parent / "lib"


def library_path() -> Path:
    """Path of libggml-base. Raises LibraryError with what to do where it is missing."""
    folder = library_folder()
    stem = "ggml-base" if sys.platform == "win32" else "libggml-base"
    path = folder / f"{stem}.{_SUFFIX}"
    if path.is_file():
        return path
    if LIB_PATH in os.environ:
        raise LibraryError(f"{path} is missing; {LIB_PATH} names that folder. Name the one that holds a whole build.")
    raise LibraryError(f"{path} is missing, although llama-cpp-python is installed. Reinstall llama-cpp-python.")


@functools.cache
def _lib() -> ctypes.CDLL:
    path = library_path()
    waiting.make_cheap()
    lib = ctypes.CDLL(str(path))
    lib.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    lib.ggml_quantize_init.argtypes = [ctypes.c_int]
    lib.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
    lib.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    lib.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    lib.ggml_validate_row_data.restype = ctypes.c_bool
    return lib


@functools.cache
def traits(ggml_type: int) -> Traits:
    """Name, block size in weights, block size in bytes. Source: ggml.h ggml_get_type_traits."""
    row = _lib().ggml_get_type_traits(ggml_type).contents
    return Traits((row.type_name or b"").decode(), row.blck_size, row.type_size, bool(row.is_quantized))


@functools.cache
def requires_importance(ggml_type: int) -> bool:
    """Whether ggml refuses to encode this type without importance."""
    return bool(_lib().ggml_quantize_requires_imatrix(ggml_type))


@functools.cache
def _init(ggml_type: int) -> None:
    _lib().ggml_quantize_init(ggml_type)  # builds the grids of the IQ types, once


def quantize_chunk(ggml_type: int, w: F32Array, importance: F32Array | None, out: U8Array) -> None:
    """Encode `w` (n_rows, n_per_row) into `out` (n_rows, row_nbytes); both C order. Releases the GIL."""
    _init(ggml_type)
    n_rows, n_per_row = w.shape
    weights = None if importance is None else importance.ctypes.data
    written = _lib().ggml_quantize_chunk(ggml_type, w.ctypes.data, out.ctypes.data, 0, n_rows, n_per_row, weights)
    if written != out.nbytes:
        raise LibraryError(f"ggml wrote {written} bytes where {out.nbytes} were expected (type {ggml_type})")


def dequantize(ggml_type: int, blocks: U8Array, out: F32Array) -> None:
    """Decode contiguous `blocks` into contiguous `out`. Releases the GIL."""
    to_float = _lib().ggml_get_type_traits(ggml_type).contents.to_float
    if not to_float:
        raise LibraryError(f"ggml has no decoder for type {traits(ggml_type).name}")
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    prototype(to_float)(blocks.ctypes.data, out.ctypes.data, out.size)


def blocks_are_valid(ggml_type: int, blocks: U8Array) -> bool:
    """Whether every scale among `blocks` is finite. Source: ggml_validate_row_data (logs the first bad one)."""
    return bool(_lib().ggml_validate_row_data(ggml_type, blocks.ctypes.data, blocks.nbytes))
