"""Gradients back through a `Tape`: from what it computed last, the logits or a layer's output, to the result of every
weight multiplication and to the rows that went in.

Gradients of a root lie in one flat array, and each place adds to its own part; so views need no rule. Where an
operation has no rule (`gradients`), the gradient ends and its name is noted: what is behind it then counts only as far
as other ways lead there. Products are summed in the same order whatever the threads.
"""

import functools
import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import EngineError
from ggufkit.runtime.gradients import RULES
from ggufkit.runtime.tape import F32Array, Matrix, Node, Tape
from quant.products import product

OnOutput = Callable[[str, F32Array, NDArray[np.int32] | None], None]

SLAB_WEIGHTS = 1 << 24  # of a matrix are widened at a time: output matrices have a row for each of 150,000 tokens


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

    def __call__(self, gradient: F32Array) -> F32Array | None:
        """`gradient` of the last node's result, (n_tokens, n_vocab) logits or (n_tokens, n_embd). The tape's values are
        given up. Returns the gradient of the rows that went in (n_tokens, n_embd), where rows did."""
        nodes = self._tape.take()
        self._flat = self._begun(nodes[-1].result.root, np.ascontiguousarray(gradient, dtype=np.float32).reshape(-1))
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
        rows = self._tape.rows
        into, self._flat = None if rows is None else self._flat.get(rows.root), {}
        return None if rows is None or into is None else rows.of(into).reshape(rows.shape[-2:])

    def _begun(self, root: int, gradient: F32Array) -> dict[int, F32Array]:
        if len(gradient) != self._tape.n_elements(root):
            raise EngineError(f"a gradient of {len(gradient)} values for a result of {self._tape.n_elements(root)}")
        return {root: gradient}

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

    def through(self, a: F32Array, matrix: Matrix, stack: int = 0) -> F32Array:
        """(n, n_rows) gradients of products with a matrix, to those of its inputs (n, n_per_row)."""
        n_rows, n_per_row = matrix.shape[-2:]
        step = max(1, SLAB_WEIGHTS // n_per_row)
        parts = (self.product(a[:, i : i + step], matrix.rows(stack, i, i + step)) for i in range(0, n_rows, step))
        return functools.reduce(operator.iadd, parts)

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
