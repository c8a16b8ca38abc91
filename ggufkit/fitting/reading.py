"""`Reading`: what is gathered in one reading of the corpus, kept on the way and restored.

Knows observers and arrays. Does not know where they are kept.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.fitting.moments import MomentsObserver
from ggufkit.fitting.sources import Observer
from ggufkit.fitting.sums import SumsObserver
from ggufkit.fitting.token_weights import TokenWeights
from ggufkit.runtime.activations import Activations
from quant.covariance import Each

I64Array = NDArray[np.int64]


class Reading:
    """What is gathered in one reading of the corpus: moments, sums or both.

    n_group  groups that are in it; n_chunk  chunks of the corpus, once all of it has been read
    """

    def __init__(
        self, names: frozenset[str], weights: TokenWeights | None, each: Each, *, moments: bool, sums: bool
    ) -> None:
        self.moments, self.sums = MomentsObserver(names, weights, each), SumsObserver(names.__contains__)
        self._observers: list[Observer] = [*([self.moments] if moments else []), *([self.sums] if sums else [])]
        self.n_group = self.n_chunk = 0
        self.save_seconds = 0.0

    @property
    def counts(self) -> dict[str, I64Array]:
        """Tokens of each expert (n_expert,), by name."""
        return self.moments.counts | {name: one.counts for name, one in self.sums.sums.items()}

    def wants(self, name: str) -> bool:
        return any(one.wants(name) for one in self._observers)

    def begin_group(self, index: int) -> None:
        for one in self._observers:
            one.begin_group(index)

    def __call__(self, seen: Activations) -> None:
        for one in self._observers:
            if one.wants(seen.name):
                one(seen)

    def state(self, *, small: bool = False) -> dict[str, NDArray[Any]]:
        """All of it as arrays, or without the moments themselves."""
        moments = {f"{name}.n_seen": counts for name, counts in self.moments.counts.items()}
        done = {"n_group": np.array(self.n_group), "n_chunk": np.array(self.n_chunk)}
        return (moments if small else self.moments.state()) | self.sums.state() | done

    def kept_as(self, label: str) -> dict[str, dict[str, NDArray[Any]]]:
        """What the notebook keeps of a walk that is complete, by name: all of it, and what is small."""
        return {label: self.state(), f"{label}-small": self.state(small=True)}

    def restore(self, state: Mapping[str, NDArray[Any]] | None) -> None:
        """Go on from what an earlier run kept, if anything."""
        if state is not None:
            self.moments.restore(state)
            self.sums.restore(state)
            self.n_group, self.n_chunk = int(state["n_group"]), int(state["n_chunk"])
