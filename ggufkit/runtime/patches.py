"""`WeightPatch`: shows what a model would say with other weights, without a file that holds them.

After llama.cpp has computed y = W x for a patched weight, D x is added to y, where D is the difference that the other
weights would make. Rows of an embedding get D's rows added. So a quantized tensor is tried in the model while all else
stays as it is: quantization of the activations is the only thing that is not seen.

Knows ggml nodes. Does not know why weights differ, texts or logits. Results must lie in host memory.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import EngineError
from ggufkit.runtime.nodes import NodeCallback, Tensor, weight_name
from quant.products import product

F32Array = NDArray[np.float32]


class Differences(Protocol):
    """D (n_rows, n_per_row) float32 of each expert of a tensor: an array, or what makes them when asked."""

    def __getitem__(self, expert: int, /) -> F32Array: ...


class WeightPatch(NodeCallback):
    """A context made with `params.cb_eval = patch.callback` computes with `patch.differences` added to its weights.

    differences  by tensor name, D of each expert; may be replaced between decodes
    """

    def __init__(self, lib: ModuleType) -> None:
        super().__init__(lib)
        self.differences: Mapping[str, Differences] = {}

    def _on_node(self, node: Tensor, ask: bool) -> bool:
        wanted = node.op in self._ggml.patchable_ops and self._difference(node) is not None
        if ask or not wanted:
            return wanted or not ask
        self._add(node)
        return True

    def _difference(self, node: Tensor) -> Differences | None:
        return self.differences.get(weight_name(node.src[0].contents.name))

    def _add(self, node: Tensor) -> None:
        difference = self._difference(node)
        if difference is None:
            return
        if not self._ggml.is_host(node):
            raise EngineError("weights are tried out on the CPU only. Use --device cpu.")
        y = self._ggml.array(node, np.float32)[0]  # a view: what is added reaches llama.cpp
        if node.op == self._ggml.get_rows:
            y[0] += difference[0][self._ggml.array(node.src[1].contents, np.int32)[0, 0, 0]]
            return
        x = self._ggml.array(node.src[1].contents, np.float32)[0]
        if node.op == self._ggml.mul_mat:
            y[0] += product(x[0], difference[0].T)
            return
        _add_by_expert(y, x, self._ggml.array(node.src[2].contents, np.int32)[0, 0], difference)


def _add_by_expert(y: F32Array, x: F32Array, experts: NDArray[np.int32], difference: Differences) -> None:
    """y (n_tokens, n_used, n_rows) += D[expert] x, with x (n_tokens, 1 or n_used, n_per_row)."""
    shared = x.shape[1] == 1
    for expert in np.unique(experts):
        token, slot = np.nonzero(experts == expert)
        y[token, slot] += product(x[token, 0 if shared else slot], difference[int(expert)].T)
