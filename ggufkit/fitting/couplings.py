"""How the rows of each tensor depend on each other: which are encoded together, where what tells it waits until then.

Knows shapes, gradients' sums and a notebook. Does not know how rows are encoded (`quant.coupling`).
"""

import dataclasses
import functools
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping

import numpy as np

from ggufkit.errors import OutputError
from ggufkit.fitting.case import Case
from ggufkit.fitting.notebook import Notebook
from ggufkit.fitting.token_weights import Stiffness
from ggufkit.formats.model import Model, ModelTensor
from ggufkit.recipes.quantizable import kept_reason, layer_of
from quant.coupling import Coupling, coupling, group_rows
from quant.covariance import Each, n_blocks, squares, strips_size

COUPLINGS = 3  # of tensors are kept in memory: those that are encoded


def groups_of(model: Model) -> dict[str, int]:
    """Rows of a group of every tensor whose rows are coupled, see `quant.coupling`."""
    return {t.name: n for t in model.tensors if (n := group_of(t))}


def group_of(t: ModelTensor) -> int:
    """The same of one tensor, 0 where its rows are not coupled."""
    n = 0 if kept_reason(t) else group_rows(t.n_rows, t.n_per_row)
    return n if n > 1 else 0


def together_nbytes(t: ModelTensor) -> int:
    """Products of the gradients of a tensor's rows, as they are kept."""
    size = group_of(t)
    return 4 * n_blocks(t.n_rows, size) * strips_size(size) if size else 0


def layer_together_nbytes(model: Model) -> int:
    """The same of all tensors of the layer that has most."""
    sizes: Counter[int] = Counter()
    for t in model.tensors:
        sizes[layer_of(t.name)] += together_nbytes(t)
    return max(sizes.values(), default=0)


def couplings_nbytes(model: Model) -> int:
    """How rows depend on each other, of the tensors in hand, and the products that one is made of."""
    sizes = sorted(n_blocks(t.n_rows, n) * n * n for t in model.tensors if (n := group_of(t)))
    return 4 * sum(sizes[-COUPLINGS - 1 :])


def kept_apart(found: Mapping[str, Stiffness], notebook: Notebook) -> dict[str, Stiffness]:
    """The same without how rows go together, as far as the notebook has that from now on."""
    out = dict(found)
    for name, one in found.items():
        if one.together is not None and notebook.save(_label(name), {"sums": one.together}):
            out[name] = dataclasses.replace(one, together=None)
    return out


def is_whole(found: Mapping[str, Stiffness], groups: Mapping[str, int], notebook: Notebook) -> bool:
    """Whether how rows go together is known of all tensors with groups, there or in the notebook."""
    return all(one.together is not None or notebook.has(_label(name)) for name, one in found.items() if name in groups)


def _label(name: str) -> str:
    return f"together-{name}"


class Couplings:
    """Those of the tensors in hand, each made once while tensors are asked for in order. From several threads.

    groups  rows of a group, by tensor
    each    `map`, or that of a pool whose threads share the work
    """

    def __init__(self, groups: Mapping[str, int], each: Each) -> None:
        self._groups, self._each = groups, each
        self._cases: OrderedDict[str, Case[Coupling]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, name: str, found: Stiffness, notebook: Notebook) -> Coupling:
        """That of a tensor with groups. Raises OutputError where what was kept of it cannot be read."""
        with self._lock:
            case = self._cases.get(name)
            if case is None:
                while len(self._cases) >= COUPLINGS:
                    self._cases.popitem(last=False)
                case = self._cases[name] = Case(functools.partial(self._made, name, found, notebook))
        return case.made()

    def _made(self, name: str, found: Stiffness, notebook: Notebook) -> Coupling:
        sums = found.together
        if sums is None:
            sums = (notebook.load(_label(name)) or {}).get("sums")
        if sums is None:  # without it the bytes would be others
            raise OutputError(f"{notebook.folder}: what was kept of {name} cannot be read. Start again with --restart.")
        n_tokens = found.weights.size
        return coupling(squares(sums / np.float32(n_tokens), self._groups[name]), n_tokens, self._each)
