"""`Tape`: what llama.cpp computed of one micro-batch, with the values that a gradient needs on its way back.

    node   op, result, sources               a `Place` each: where in which root tensor it lies
    kept   values of some of them            copied as they pass: ggml uses its memory again

Views, reshapes and permutations are not recorded: they are other places in the same root, so that a gradient finds its
way by addresses alone. A root is live when a weight's product has gone into it; gradients go to live roots only.
Results must lie in host memory, the weights as their file has them (`use_extra_bufts=False`). Where rows of the
residual stream go in, and not tokens, they are live as well: their gradient is what the layers before are given.

Knows ggml nodes. Does not know derivatives (`ggufkit.runtime.backward`), texts or models.
"""

import ctypes
from dataclasses import dataclass, field
from math import prod
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.errors import EngineError
from ggufkit.runtime.nodes import NodeCallback, Tensor, weight_name
from quant.types import quant_type_of

F32Array = NDArray[np.float32]

_DTYPES = {0: np.float32, 1: np.float16, 26: np.int32, 27: np.int64}  # ggml.h enum ggml_type
_INPUT = 1  # ggml.h enum ggml_tensor_flag
_RESULT = -1
# which values the way back needs: sources by number, the result as -1
_KEPT: dict[str, tuple[int, ...]] = {
    "MUL_MAT": (0, 1), "MUL_MAT_ID": (2,), "MUL": (0, 1), "DIV": (0, 1), "RMS_NORM": (0,), "NORM": (0,),
    "L2_NORM": (0,), "SOFT_MAX": (_RESULT,), "ROPE": (0, _RESULT), "GLU": (0, 1), "UNARY": (0,), "SQR": (0,),
    "SQRT": (_RESULT,),
    "CLAMP": (0,), "GET_ROWS": (1,), "SET_ROWS": (1,), "SSM_CONV": (1,), "SSM_SCAN": (1, 2, 3, 4, 5),
}  # fmt: skip
_OF_WEIGHTS = frozenset(("MUL_MAT", "MUL_MAT_ID", "GET_ROWS"))
_SAME_PLACE = frozenset(("NONE", "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"))


def looked_up(name: str) -> str:
    """What a matrix is called where its rows are looked up and not multiplied with: an embedding on its way in."""
    return f"{name} looked up"


class Place(NamedTuple):
    """Where a tensor's elements lie in its root. Shape and strides in numpy's order, in elements."""

    root: int
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, flat: F32Array) -> F32Array:
        """This place in the flat array of its root: a view."""
        strides = tuple(4 * step for step in self.strides)
        return np.lib.stride_tricks.as_strided(flat[self.start :], self.shape, strides)


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. `weight` is the name of source 0 where that is a matrix of the model's file."""

    op: str
    result: Place
    sources: tuple[Place, ...]
    live: tuple[bool, ...]  # by source: whether a gradient goes there
    params: NDArray[np.int32]
    kept: dict[int, NDArray[Any]]
    weight: str = ""
    matrix: "Matrix | None" = None

    def float_param(self, at: int) -> np.float32:
        return np.float32(self.params[at : at + 1].view(np.float32)[0])


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight where llama.cpp holds it, as long as the engine is open. Shape in numpy's order."""

    address: int
    ggml_type: int
    shape: tuple[int, ...]

    def rows(self, stack: int = 0, start: int = 0, stop: int | None = None) -> F32Array:
        """Rows [start, stop) of one of its matrices, widened: (stop - start, n_per_row)."""
        qtype = quant_type_of(self.ggml_type)
        n_rows, n_per_row = self.shape[-2:]
        stop, row_nbytes = n_rows if stop is None else min(stop, n_rows), qtype.row_nbytes(n_per_row)
        address = self.address + (stack * n_rows + start) * row_nbytes
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * ((stop - start) * row_nbytes)).from_address(address))
        return quant.dequantize(raw.reshape(stop - start, -1), qtype)


@dataclass(slots=True)
class _State:
    nodes: list[Node] = field(default_factory=list)
    live: set[int] = field(default_factory=set)
    sizes: dict[int, int] = field(default_factory=dict)
    values: dict[int, NDArray[Any]] = field(default_factory=dict)  # of results that were kept, by struct
    rows: Place | None = None  # of the residual stream that went in


class Tape(NodeCallback):
    """Records one decode of one micro-batch; a context is made with `params.cb_eval = tape.callback`.

    takes_rows  rows of the residual stream go in, to which gradients go back
    last        name of the last node that is computed and recorded, "" for all
    """

    def __init__(self, lib: ModuleType, *, takes_rows: bool = False, last: str = "") -> None:
        super().__init__(lib)
        self._takes_rows, self._last = takes_rows, last.encode()
        self._state = _State()

    def take(self) -> list[Node]:
        """What was recorded, in order; with each node that is let go, its values are."""
        nodes, self._state.nodes, self._state.values = self._state.nodes, [], {}
        return nodes

    @property
    def rows(self) -> Place | None:
        """Where the rows lie that went in."""
        return self._state.rows

    def n_elements(self, root: int) -> int:
        return self._state.sizes[root]

    def clear(self) -> None:
        self._state = _State()

    def _on_node(self, node: Tensor, ask: bool) -> bool:
        op = self._ggml.op_name(node.op)
        if ask:
            if op in _SAME_PLACE:
                return False
            self._record(node, op)  # before it runs: it may write its result over its sources
            return True
        if _RESULT in _KEPT.get(op, ()) and self._state.nodes[-1].result == self._place(node):
            self._state.nodes[-1].kept[_RESULT] = self._value(node)
        return bool(node.name != self._last)

    def _record(self, node: Tensor, op: str) -> None:
        state = self._state
        tensors = [pointer.contents for pointer in node.src if pointer]
        weight = _weight_of(op, tensors[0]) if tensors else ""
        places = tuple(self._place(tensor) for tensor in tensors)
        result = self._place(node)
        if self._takes_rows and state.rows is None:  # the first input of numbers that is used: masks come later
            state.rows = next((p for p, t in zip(places, tensors, strict=True) if _goes_in(t)), None)
            state.live.update(() if state.rows is None else (state.rows.root,))
        live = tuple(p.root in state.live and t.type in (0, 1) for p, t in zip(places, tensors, strict=True))
        if not weight and not any(live):
            return
        state.live.add(result.root)
        slots = () if weight and op != "MUL_MAT_ID" else _KEPT.get(op, ())
        kept = {slot: self._value(tensors[slot]) for slot in slots if 0 <= slot < len(tensors)}
        matrix = _matrix(self._ggml, tensors[0], weight) if weight else None
        params = np.array(node.op_params, dtype=np.int32)
        state.nodes.append(Node(op, result, places, live, params, kept, weight, matrix))

    def _place(self, tensor: Tensor) -> Place:
        root = tensor.view_src.contents if tensor.view_src else tensor
        key = ctypes.addressof(root)
        if tensor.type not in _DTYPES:
            return Place(key, 0, (), ())
        size = np.dtype(_DTYPES[tensor.type]).itemsize
        self._state.sizes[key] = prod(root.ne)
        shape = tuple(tensor.ne)[::-1]
        strides = tuple(step // size for step in tuple(tensor.nb)[::-1])
        return Place(key, tensor.view_offs // size if tensor.view_src else 0, shape, strides)

    def _value(self, tensor: Tensor) -> NDArray[Any]:
        key = ctypes.addressof(tensor)
        found = self._state.values.get(key)
        if found is None:
            if not self._ggml.is_host(tensor):
                raise EngineError("gradients are taken on the CPU only. Use --device cpu.")
            found = self._ggml.any_array(tensor, _DTYPES[tensor.type])
            found = found.astype(np.float32) if tensor.type in (0, 1) else found.copy()
            self._state.values[key] = found
        return found


def _goes_in(tensor: Tensor) -> bool:
    return tensor.type == 0 and bool(tensor.flags & _INPUT)


def _weight_of(op: str, first: Tensor) -> str:
    """Name of the matrix that the node multiplies with or looks rows up in, "" where both sides are computed."""
    name = weight_name(first.name)
    root_is_leaf = not first.view_src and not any(first.src)
    return name if op in _OF_WEIGHTS and root_is_leaf and name.endswith(".weight") else ""


def _matrix(lib: Any, tensor: Tensor, name: str) -> Matrix:
    if not lib.is_host(tensor):
        raise EngineError(f"{name} lies on a device; gradients are taken on the CPU only. Use --device cpu.")
    return Matrix(tensor.data, tensor.type, tuple(tensor.ne)[::-1])
