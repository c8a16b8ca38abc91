"""`ActivationTap`: sees the inputs of weight multiplications while llama.cpp evaluates a batch.

Knows which node is a weight's product. Does not know what is done with the activations (sums, covariances), which text
is read, or files. A context is made with `params.cb_eval = tap.callback`.

    node  = MUL_MAT(src0 = weight, src1 = x)                     x    ne (n_per_row, n_tokens)
    node  = MUL_MAT_ID(src0 = expert stack, src1 = x, src2 = ids)
                       x    ne (n_per_row, 1 or n_used, n_tokens)     one input for all chosen experts, or one each
                       ids  ne (n_used, n_tokens) int32, a view with its own strides
    node  = MUL_MAT(src0 = a stack, one matrix a head, src1 = x) x    ne (n_per_row, n_tokens, n_head)
"""

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import EngineError
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.nodes import F32, NodeCallback, Tensor, weight_name

F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]


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


class ActivationTap(NodeCallback):
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
        super().__init__(lib)
        self._observe, self._wants = observe, wants
        self._nodes = {name.encode(): on_node for name, on_node in nodes.items()}
        self._latest = self._last = ""

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

    def _on_node(self, node: Tensor, ask: bool) -> bool:
        if ask:
            return self._asked(node)
        on_result = self._nodes.get(node.name)
        if on_result is not None:
            return on_result(self._ggml.array(node, np.float32))
        seen = self._read(node)
        self._observe(seen)
        self._latest = seen.name
        return seen.name != self._last

    def _asked(self, node: Tensor) -> bool:
        if node.name in self._nodes:
            return True
        if node.op not in self._ggml.matmul_ops:
            return False
        weight, x = node.src[0].contents, node.src[1].contents
        return x.type == F32 and self._wants(weight_name(weight.name))

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
