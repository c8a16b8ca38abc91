"""llama.cpp itself, as an oracle: its quantizer on files, and its choice of types on bare shapes."""

import ctypes
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from numpy.typing import NDArray

from ggufkit.runtime import library
from quant._ggml import library_path

F32Array = NDArray[np.float32]


def llama_quantize(
    src: Path, dst: Path, ftype: int, imatrix: Mapping[str, F32Array] | None = None, threads: int = 2
) -> None:
    """llama_model_quantize from `src` to `dst`.

    imatrix  tensor name to importance: (n_per_row,), or (n_expert, n_per_row) for a stack
    """
    library.load()  # its log goes to the ring buffer, off the terminal
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = ftype
    params.nthread = threads
    params.allow_requantize = True
    if imatrix is not None:
        params.imatrix = _imatrix_rows(imatrix)
    code = llama_cpp.llama_model_quantize(str(src).encode(), str(dst).encode(), ctypes.byref(params))
    if code != 0:
        raise RuntimeError(f"llama_model_quantize to ftype {ftype} failed with {code}")


def _imatrix_rows(imatrix: Mapping[str, F32Array]) -> ctypes.Array[llama_cpp.llama_model_imatrix_data]:
    rows = (llama_cpp.llama_model_imatrix_data * (len(imatrix) + 1))()  # the last has no name
    for row, (name, importance) in zip(rows, imatrix.items(), strict=False):
        data = np.ascontiguousarray(importance, dtype=np.float32).reshape(-1)
        row.name = name.encode()
        row.data = (ctypes.c_float * data.size).from_buffer_copy(data)
        row.size = data.size
    return rows


class _ModelDesc(ctypes.Structure):
    # llama-ext.h: struct llama_quant_model_desc
    _fields_ = (
        ("architecture", ctypes.c_char_p),
        *((name, ctypes.c_uint32) for name in ("n_embd", "n_ff", "n_layer", "n_head", "n_head_kv", "n_expert")),
        ("n_embd_head_k", ctypes.c_uint32),
        ("n_embd_head_v", ctypes.c_uint32),
    )


class _GgmlInit(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@functools.cache
def _symbols() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """libllama and libggml-base. The type chooser is exported as C++, so its names are mangled."""
    llama, ggml = llama_cpp.llama_cpp._lib, ctypes.CDLL(str(library_path()))
    pointer = ctypes.c_void_p
    for lib, name, result, arguments in (
        (llama, "_Z31llama_quant_model_from_metadataPK22llama_quant_model_desc", pointer, (pointer,)),
        (llama, "_Z16llama_quant_initPK11llama_modelPK27llama_model_quantize_params", pointer, (pointer, pointer)),
        (llama, "_Z16llama_quant_freeP19quantize_state_impl", None, (pointer,)),
        (llama, "_Z38llama_quant_tensor_allows_quantizationPK19quantize_state_implPK11ggml_tensor", ctypes.c_bool,
         (pointer, pointer)),
        (llama, "_Z25llama_quant_compute_typesP19quantize_state_impl11llama_ftypePP11ggml_tensorP9ggml_typem", None,
         (pointer, ctypes.c_int, pointer, pointer, ctypes.c_size_t)),
        (llama, "llama_model_free", None, (pointer,)),
        (ggml, "ggml_init", pointer, (_GgmlInit,)),
        (ggml, "ggml_free", None, (pointer,)),
        (ggml, "ggml_tensor_overhead", ctypes.c_size_t, ()),
        (ggml, "ggml_set_name", pointer, (pointer, ctypes.c_char_p)),
        (ggml, "ggml_new_tensor_4d", pointer, (pointer, ctypes.c_int, *[ctypes.c_int64] * 4)),
    ):  # fmt: skip
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return llama, ggml


def llama_types(
    desc: Mapping[str, int | str], tensors: Sequence[tuple[str, tuple[int, ...]]], ftypes: Sequence[int]
) -> list[dict[str, str]]:
    """Types that llama.cpp gives to tensors of these shapes without importance, one dict for each of `ftypes`.

    desc     architecture, n_embd, n_ff, n_layer, n_head, n_head_kv, n_expert
    tensors  name and shape (numpy order), in the order they are written; those never quantized are left out
    """
    library.load()  # its log goes to the ring buffer, off the terminal
    llama, ggml = _symbols()
    row = _ModelDesc(**{key: value.encode() if isinstance(value, str) else value for key, value in desc.items()})
    model = llama._Z31llama_quant_model_from_metadataPK22llama_quant_model_desc(ctypes.byref(row))
    params = llama_cpp.llama_model_quantize_default_params()
    state = llama._Z16llama_quant_initPK11llama_modelPK27llama_model_quantize_params(model, ctypes.byref(params))
    context = ggml.ggml_init(_GgmlInit(len(tensors) * ggml.ggml_tensor_overhead(), None, True))
    try:
        free = []
        for name, shape in tensors:
            ne = (*reversed(shape), 1, 1, 1)[:4]
            tensor = ggml.ggml_new_tensor_4d(context, 0, *ne)
            ggml.ggml_set_name(tensor, name.encode())
            if llama._Z38llama_quant_tensor_allows_quantizationPK19quantize_state_implPK11ggml_tensor(state, tensor):
                free.append((name, tensor))
        return [_types(llama, state, ftype, free) for ftype in ftypes]
    finally:
        ggml.ggml_free(context)
        llama._Z16llama_quant_freeP19quantize_state_impl(state)
        llama.llama_model_free(model)


def _types(llama: ctypes.CDLL, state: int, ftype: int, free: Sequence[tuple[str, int]]) -> dict[str, str]:
    pointers = (ctypes.c_void_p * len(free))(*(tensor for _, tensor in free))
    result = (ctypes.c_int * len(free))()
    llama._Z25llama_quant_compute_typesP19quantize_state_impl11llama_ftypePP11ggml_tensorP9ggml_typem(
        state, ftype, pointers, result, len(free)
    )
    return {name: gguf.GGMLQuantizationType(number).name for (name, _), number in zip(free, result, strict=True)}
