"""Gradients back through a `Tape`: from the logits to the result of every weight multiplication.

Gradients of a root lie in one flat array, and each place adds to its own part; so views need no rule. Where an
operation has no rule (`gradients`), the gradient ends and its name is noted: what is behind it then counts only as far
as other ways lead there. Products are summed in the same order whatever the threads.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.runtime.gradients import RULES
from ggufkit.runtime.tape import F32Array, Node, Tape
from quant.products import product

OnOutput = Callable[[str, F32Array, NDArray[np.int32] | None], None]


class Backward:
    """Takes gradients back.

    on_output  called with a weight's name, the gradient of its product (n_tokens, n_slot, n_rows), and the experts
               (n_tokens, n_slot) that the rows belong to; with `looked_up(name)` for rows of it that were looked up
    ended_at   operations without a rule that a gradient came to
    """

    def __init__(self, tape: Tape, on_output: OnOutput, threads: int = 1) -> None:
        self._tape, self._on_output = tape, on_output
        self._flat: dict[int, F32Array] = {}
        self._pool = ThreadPoolExecutor(max(1, threads))
        self._n_threads = max(1, threads)
        self.ended_at: set[str] = set()

    def __call__(self, gradient: F32Array) -> None:
        """`gradient` of the last node's result, the logits (n_tokens, n_vocab). The tape's values are given up."""
        nodes = self._tape.take()
        self._flat = {}
        self._add(nodes[-1].result, gradient.reshape(nodes[-1].result.shape))
        while nodes:
            node = nodes.pop()
            flat = self._flat.pop(node.result.root, None)
            if flat is None:
                continue
            rule = RULES.get(node.op)
            if rule is None:
                self.ended_at.add(node.op)
            else:
                rule(self, node, node.result.of(flat))
        self._flat = {}

    def close(self) -> None:
        self._pool.shutdown()

    def give(self, node: Node, slot: int, make: Callable[[], F32Array]) -> None:
        """Add to the gradient of a source, where it takes one."""
        if slot < len(node.sources) and node.live[slot]:
            self._add(node.sources[slot], make())

    def product(self, a: F32Array, b: F32Array) -> F32Array:
        """a @ b, rows of a shared among threads."""
        parts = np.array_split(a, self._n_threads)
        return np.concatenate(list(self._pool.map(lambda part: product(part, b), parts)))

    def products(self, a: F32Array, b: F32Array) -> F32Array:
        """a[i] @ b[i] of every i, shared among threads."""
        return np.stack(list(self._pool.map(product, a, b)))

    def output(self, name: str, gradient: F32Array, experts: NDArray[np.int32] | None) -> None:
        self._on_output(name, gradient, experts)

    def _add(self, place: Any, values: F32Array) -> None:
        flat = self._flat.get(place.root)
        if flat is None:
            flat = self._flat[place.root] = np.zeros(self._tape.n_elements(place.root), dtype=np.float32)
        target = place.of(flat)
        target += values
