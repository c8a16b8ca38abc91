"""Nodes of llama.cpp's graph: ggml's tensor struct, read in place, and `NodeCallback`, which is called with them."""

import ctypes
import functools
import weakref
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import EngineError
from ggufkit.runtime.library import INSTALL, library_folder
from ggufkit.sigint import called_from_c

F32, I32 = 0, 26  # ggml.h enum ggml_type
_LAST_OP = "GLU"  # ggml.h enum ggml_op; there are no names after it
_MAX_DIMS, _MAX_OP_PARAMS, _MAX_SRC, _MAX_NAME = 4, 64, 10, 64  # ggml.h


class Tensor(ctypes.Structure):
    """ggml.h struct ggml_tensor."""


POINTER = ctypes.POINTER(Tensor)
Tensor._fields_ = [  # ggml.h struct ggml_tensor
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * _MAX_DIMS),
    ("nb", ctypes.c_size_t * _MAX_DIMS),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * (_MAX_OP_PARAMS // 4)),
    ("flags", ctypes.c_int32),
    ("src", POINTER * _MAX_SRC),
    ("view_src", POINTER),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * _MAX_NAME),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


class NodeCallback:
    """What llama.cpp calls with every node, before and after it is computed; a context is made with
    `params.cb_eval = callback`. What it raises ends the batch, and is raised again by `reraise`.
    """

    def __init__(self, lib: ModuleType) -> None:
        self._ggml = ggml()
        self._error: BaseException | None = None
        # kept alive as long as the context; it must not keep this, with all that is observed, alive in its turn
        self.callback = lib.ggml_backend_sched_eval_callback(functools.partial(_call, weakref.ref(self)))

    def reraise(self) -> None:
        """Raise what went wrong inside the last decode, if anything did. To be called after every decode."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _on_node(self, node: Tensor, ask: bool) -> bool:
        """Asked: whether the node is to be shown. Shown: whether to compute what is behind it."""
        raise NotImplementedError

    def called(self, address: int, ask: bool) -> bool:
        """By llama.cpp, with the address of a node."""
        if self._error is not None:
            return False
        try:
            return self._on_node(Tensor.from_address(address), ask)
        except BaseException as error:  # an exception cannot cross C
            self._error = error
            return False


@called_from_c
def _call(callback: weakref.ref[NodeCallback], address: int, ask: bool, _user: Any) -> bool:
    there = callback()
    return there is not None and there.called(address, ask)


def weight_name(raw: bytes) -> str:
    """Name of a weight in the file: a copy on another device is called `device#blk.0.attn_q.weight#0`."""
    name = raw.decode("utf-8", errors="replace")
    parts = name.split("#")
    return parts[1] if len(parts) > 2 else name


class Ggml:
    """The few functions of libggml-base that reading a tensor needs."""

    def __init__(self, lib: ctypes.CDLL) -> None:
        self._lib = lib
        self._names: list[str] = []
        while _LAST_OP not in self._names and len(self._names) < 128:
            self._names.append(str(lib.ggml_op_name(len(self._names)), "ascii"))
        self.mul_mat = self._op_number("MUL_MAT")
        self.mul_mat_id = self._op_number("MUL_MAT_ID")
        self.get_rows = self._op_number("GET_ROWS")
        self.matmul_ops = frozenset((self.mul_mat, self.mul_mat_id))
        self.patchable_ops = self.matmul_ops | {self.get_rows}

    def _op_number(self, name: str) -> int:
        if name not in self._names:
            raise EngineError(f"the installed llama.cpp has no operation {name}. {INSTALL}")
        return self._names.index(name)

    def op_name(self, number: int) -> str:
        return self._names[number]

    def array(self, tensor: Tensor, dtype: type[np.float32] | type[np.int32]) -> NDArray[Any]:
        """The tensor's values in numpy order, strides kept; a copy where they lie on a device."""
        wanted = F32 if dtype is np.float32 else I32
        if tensor.type != wanted:
            raise EngineError(f"activations of type {tensor.type} where {wanted} was expected. {INSTALL}")
        return self.any_array(tensor, dtype)

    def any_array(self, tensor: Tensor, dtype: Any) -> NDArray[Any]:
        """The same for a number format that the caller has looked up."""
        shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
        if 0 in shape:  # the last layer of a micro-batch that asked for no logits
            return np.empty(shape, dtype)
        nbytes = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + strides[-1]
        return np.ndarray(shape, dtype, self._bytes(tensor, nbytes), strides=strides)

    def is_host(self, tensor: Tensor) -> bool:
        """Whether the values lie in this process's memory, not on a device."""
        return not tensor.buffer or bool(self._lib.ggml_backend_buffer_is_host(tensor.buffer))

    def _bytes(self, tensor: Tensor, nbytes: int) -> Any:
        if not self.is_host(tensor):
            out = ctypes.create_string_buffer(nbytes)
            self._lib.ggml_backend_tensor_get(ctypes.byref(tensor), out, 0, nbytes)
            return out
        return (ctypes.c_char * nbytes).from_address(tensor.data)


@functools.cache
def ggml() -> Ggml:
    """libggml-base with its prototypes. Raises EngineError where its tensor struct is not the one above."""
    paths = sorted(library_folder().glob("*ggml-base.*"))
    if not paths:
        raise EngineError(f"{library_folder()}: no libggml-base. {INSTALL}")
    lib = ctypes.CDLL(str(paths[0]))
    lib.ggml_op_name.restype = ctypes.c_char_p
    lib.ggml_op_name.argtypes = [ctypes.c_int]
    lib.ggml_tensor_overhead.restype = ctypes.c_size_t
    lib.ggml_backend_buffer_is_host.restype = ctypes.c_bool
    lib.ggml_backend_buffer_is_host.argtypes = [ctypes.c_void_p]
    lib.ggml_backend_tensor_get.restype = None
    lib.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    # overhead = the object header (32 bytes) and the tensor: a struct that grew would be misread
    wanted, got = 32 + ctypes.sizeof(Tensor), lib.ggml_tensor_overhead()
    if got != wanted:
        raise EngineError(f"ggml_tensor of the installed llama.cpp takes {got} bytes, wanted {wanted}. {INSTALL}")
    return Ggml(lib)
