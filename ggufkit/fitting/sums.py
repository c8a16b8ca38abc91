"""Sums of squares of the inputs of every matrix: what importance files hold. Keeps them; does not run models."""

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from ggufkit.runtime.activations import Activations
from quant.importance import InputSums, input_sums


class SumsObserver:
    """Keeps sums of squares by tensor name. Tensors that share an input (q, k, v; gate, up) are summed once."""

    def __init__(self, wants: Callable[[str], bool]) -> None:
        self.wants = wants
        self.sums: dict[str, InputSums] = {}
        self._pass: dict[int, InputSums] = {}  # of the micro-batch in hand, by where the input lies
        self._seen: set[str] = set()

    def begin_group(self, index: int) -> None:
        """All groups count alike; another layer's inputs may lie where the last one's did."""
        self._begin_pass()

    def _begin_pass(self) -> None:
        self._seen.clear()
        self._pass.clear()

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that the next group is added to, as arrays; see `restore`. Between groups only."""
        return {f"{name}.sums2": one.sums for name, one in self.sums.items()} | {
            f"{name}.n_tokens": one.counts for name, one in self.sums.items()
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state` of an earlier run. Raises KeyError where it is not whole."""
        names = [key.removesuffix(".sums2") for key in state if key.endswith(".sums2")]
        self.sums = {name: InputSums(state[f"{name}.sums2"], state[f"{name}.n_tokens"]) for name in names}

    def __call__(self, seen: Activations) -> None:
        if seen.name in self._seen:  # the next micro-batch has begun: its inputs lie in the same places
            self._begin_pass()
        self._seen.add(seen.name)
        new = self._pass.get(seen.source)
        if new is None or new.sums.shape[0] != seen.n_expert:
            new = self._pass[seen.source] = input_sums(seen.x, seen.experts, seen.n_expert)
        old = self.sums.get(seen.name)
        self.sums[seen.name] = new if old is None else old + new


def wants_block_weights(name: str) -> bool:
    """Weights of the layers: what llama-imatrix collects."""
    return name.startswith("blk.")
