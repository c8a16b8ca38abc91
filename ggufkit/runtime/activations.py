"""`ActivationTap`: sees the inputs of weight multiplications while llama.cpp evaluates a batch.

Knows ggml's tensor struct and the evaluation callback. Does not know what is done with the activations (sums,
covariances), which text is read, or files. A context is made with `params.cb_eval = tap.callback`.

    node  = MUL_MAT(src0 = weight, src1 = x)                     x    ne (n_per_row, n_tokens)
    node  = MUL_MAT_ID(src0 = expert stack, src1 = x, src2 = ids)
                       x    ne (n_per_row, 1 or n_used, n_tokens)     one input for all chosen experts, or one each
                       ids  ne (n_used, n_tokens) int32, a view with its own strides
    node  = MUL_MAT(src0 = a stack, one matrix a head, src1 = x) x    ne (n_per_row, n_tokens, n_head)
"""

import ctypes
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import EngineError
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.library import INSTALL, library_folder

F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]

_F32, _I32 = 0, 26  # ggml.h enum ggml_type
_LAST_OP = "GLU"  # ggml.h enum ggml_op; behind it there are no names
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


@dataclass(frozen=True, slots=True)
class Activations:
    """The inputs of one weight tensor for the tokens of one micro-batch. Valid only during the call.

    name      of the weight, as GGUF spells it
    x         (n_tokens, n_slot, n_per_row); n_slot is 1, or n_used where every chosen expert has its own input
    experts   (n_tokens, n_used) chosen experts, or all matrices of a stack with one a head; None for a single matrix
    n_expert  matrices in the weight's stack, 1 without experts
    source    equal for two observations of the same pass that have the same x and experts (gate and up; q, k and v)
    """

    name: str
    x: F32Array
    experts: I32Array | None
    n_expert: int
    source: int


Observer = Callable[[Activations], None]
NodeObserver = Callable[[F32Array], bool]


class ActivationTap:
    """Calls `observe` for every wanted weight multiplication of every micro-batch.

    wants    says by the weight's name whether its inputs are to be looked at
    observe  runs in llama.cpp's thread; what it raises stops the batch and is raised again by `reraise`
    nodes    results to be looked at, by the name of their node (`l_out-0`): called with a view of the values,
             ne reversed; False leaves out what would be computed behind it

    After `stop_early`, each micro-batch ends with the tensor that was the last one seen before.
    """

    def __init__(
        self,
        lib: ModuleType,
        observe: Observer,
        wants: Callable[[str], bool],
        nodes: Mapping[str, NodeObserver] = MappingProxyType({}),
    ) -> None:
        self._ggml = ggml()
        self._observe, self._wants = observe, wants
        self._nodes = {name.encode(): on_node for name, on_node in nodes.items()}
        self._error: BaseException | None = None
        self._latest = self._last = ""
        self.callback = lib.ggml_backend_sched_eval_callback(self._on_node)  # kept alive as long as the context

    def reraise(self) -> None:
        """Raise what the observer raised, if it did. To be called after every decode."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop_early(self) -> None:
        """Compute no more than is looked at: layers behind the last wanted tensor are left out from now on."""
        self._last = self._latest

    def decode(self, engine: Engine, x: I32Array | F32Array) -> None:
        """Let `engine`, made with this tap, compute the tokens or rows `x` (n, …) as a sequence of their own.

        All positions ask for logits: llama.cpp leaves out the last layer for those that do not. Raises what the
        observer raised, which says more than the batch that it stopped.
        """
        engine.clear()
        try:
            engine.decode(x, 0, logits=1)
        except EngineError:
            self.reraise()
            raise
        self.reraise()

    def _on_node(self, address: int, ask: bool, _user: Any) -> bool:
        try:
            node = ctypes.cast(address, POINTER).contents
            if ask:
                return self._asked(node)
            on_result = self._nodes.get(node.name)
            if on_result is not None:
                return on_result(self._ggml.array(node, np.float32))
            seen = self._read(node)
            self._observe(seen)
            self._latest = seen.name
            return seen.name != self._last
        except BaseException as error:  # an exception cannot cross C; Ctrl-C arrives here too
            self._error = error
            return False

    def _asked(self, node: Tensor) -> bool:
        if self._error is not None:
            return False
        if node.name in self._nodes:
            return True
        if node.op not in self._ggml.matmul_ops:
            return False
        weight, x = node.src[0].contents, node.src[1].contents
        return x.type == _F32 and self._wants(weight_name(weight.name))

    def _read(self, node: Tensor) -> Activations:
        weight, x = node.src[0].contents, node.src[1].contents
        source = ctypes.addressof(x)
        values = self._ggml.array(x, np.float32)  # ne reversed: (1 or batch, n_tokens, n_slot, n_per_row)
        name = weight_name(weight.name)
        if node.op == self._ggml.mul_mat_id:
            experts = self._ggml.array(node.src[2].contents, np.int32)[0, 0]
            return Activations(name, values[0], experts, int(weight.ne[2]), source)
        n_matrix = int(weight.ne[2])
        if n_matrix * weight.ne[3] == 1:
            return Activations(name, values.reshape(-1, 1, values.shape[-1]), None, 1, source)
        if weight.ne[3] != 1 or values.shape[1] % n_matrix:
            raise EngineError(f"{name}: a product of {tuple(weight.ne)} with {values.shape} cannot be calibrated yet")
        x = values[0].swapaxes(0, 1)  # one input for each matrix: every token is seen by all of them
        matrices = np.repeat(np.arange(n_matrix, dtype=np.int32), x.shape[1] // n_matrix)
        return Activations(name, x, np.broadcast_to(matrices, x.shape[:2]), n_matrix, source)


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
        wanted = _F32 if dtype is np.float32 else _I32
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
