"""Second moments of the inputs of every matrix, gathered from a corpus in two parts.

One group of chunks in five is held out: what types cost is judged on it, after fitting on the other four. What is
stored is fitted on all of them: a word that stands in one passage only is evidence, too.

    expert's moments = (its own sum + n_per_row · mean over its layer) / (its own count + n_per_row)

An expert that was hardly seen borrows from its layer, and is damped more when its curvature is made.

Knows activations and sums. Does not know which tensors are gathered when, types or encoders.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.fitting.token_weights import TokenWeights
from ggufkit.fitting.walks import width_of
from ggufkit.runtime.activations import Activations
from quant.covariance import Covariance, Each, diagonals, pooled_mean, squares
from quant.curvature import Curvature, curvature, damping_for

F32Array = NDArray[np.float32]

HOLD_OUT_EVERY = 5
_COVARIANCE = ("sums", "counts", "mass")  # what is kept of each part; the width of blocks is that of both


@dataclass(frozen=True, slots=True)
class ExpertEvidence:
    """What is known of one expert's inputs.

    importance  (n_per_row,) mean squared input of each column, from the text to fit on
    curve       second moments and their factor, damped for the tokens that the expert saw, from the same text
    held_out    (n_block, width, width) mean second moments, from the text to judge on; None where all was fitted on
    """

    importance: F32Array
    curve: Curvature
    held_out: F32Array | None

    @property
    def nbytes(self) -> int:
        held_out = 0 if self.held_out is None else self.held_out.nbytes
        return self.curve.moments.nbytes + self.curve.factor.nbytes + held_out


@dataclass(frozen=True, slots=True)
class PlainEvidence:
    """The same where rows are searched with importance, not fitted."""

    importance: F32Array
    held_out: F32Array | None


@dataclass(frozen=True, slots=True)
class ExpertMeans:
    """What one expert's evidence is made of: mean second moments in the parts of the text to fit and to judge on, as
    strips of blocks `width` wide (see `quant.covariance`), the columns of a row, and what to damp them with."""

    fit: F32Array
    held_out: F32Array | None
    width: int
    n_per_row: int
    damping: float

    @property
    def nbytes(self) -> int:
        return self.fit.nbytes + (0 if self.held_out is None else self.held_out.nbytes)

    @property
    def importance(self) -> F32Array:
        """(n_per_row,) mean squared input of each column."""
        return diagonals(self.fit, self.width)[: self.n_per_row]

    def evidence(self, each: Each = map) -> ExpertEvidence:
        """Half a second of work for wide rows: the curvature is factored, by the threads of `each`."""
        curve = curvature(squares(self.fit, self.width), damping=self.damping, each=each, in_place=True)
        return ExpertEvidence(self.importance, curve, self._judging())

    def plain(self) -> PlainEvidence:
        """What is known without a curvature."""
        return PlainEvidence(self.importance, self._judging())

    def _judging(self) -> F32Array | None:
        return None if self.held_out is None else squares(self.held_out, self.width)


@dataclass(frozen=True, slots=True)
class Moments:
    """One tensor's inputs in both parts of the text."""

    fit: Covariance
    held_out: Covariance

    def of_expert(self, expert: int, *, whole: bool = False, each: Each = map) -> ExpertEvidence:
        """Evidence of one expert, with its layer's as far as its own is thin: of all of the text, or to be judged."""
        return self.means_of(expert, whole=whole).evidence(each)

    def means_of(self, expert: int, *, whole: bool = False) -> ExpertMeans:
        """What that is made of."""
        parts = (self.fit, self.held_out) if whole else (self.fit,)
        prior = max(map(_prior, parts))
        mean = pooled_mean(parts, expert, prior)
        width = self.fit.width
        damping = damping_for(sum(float(part.counts[expert]) for part in parts) + prior, width)
        held_out = None if whole else pooled_mean((self.held_out,), expert, _prior(self.held_out))
        return ExpertMeans(mean, held_out, width, self.fit.n_per_row, damping)

    def forget(self) -> None:
        """Give back what is only kept to be quick: other tensors are at work."""
        self.fit.forget()
        self.held_out.forget()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was seen of the inputs, or nothing but zeros."""
        return self.fit.is_empty

    def shares(self) -> NDArray[np.float64]:
        """(n_expert,) part of the tokens that each expert saw, each for what it counts; sums to 1."""
        counts = self.fit.mass + self.held_out.mass
        if len(counts) == 1:
            return np.ones(1)
        out: NDArray[np.float64] = counts / max(1.0, float(counts.sum()))
        return out


def _prior(part: Covariance) -> float:
    """Tokens of the layer's mean that every expert gets: as many as a row has columns. None where nothing was seen."""
    return float(part.n_per_row) if len(part.counts) > 1 and part.counts.any() else 0.0


class MomentsObserver:
    """Adds to the part that the group in hand belongs to.

    names    whose moments are wanted
    weights  what each token counts for in them; all count alike without, and tensors of one input are then summed once
    each     `map`, or that of a pool whose threads share the work
    counts   tokens of each expert (n_expert,) int64 by name, of expert stacks
    """

    def __init__(self, names: frozenset[str], weights: TokenWeights | None = None, each: Each = map) -> None:
        self._weights, self._each = weights, each
        self._n_rows: Counter[str] = Counter()  # tokens that a tensor has seen: they come in the order of the corpus
        self.moments: dict[str, Moments] = {}
        self.counts: dict[str, NDArray[np.int64]] = {}
        self._names = names
        self._owner: dict[str, str] = {}  # tensor -> the tensor that gathers for it
        self._first: dict[tuple[int, int], str] = {}  # of the micro-batch in hand: input, n_expert -> its first tensor
        self._seen: set[str] = set()
        self._hold_out = False

    def wants(self, name: str) -> bool:
        return name in self._names

    def begin_group(self, index: int) -> None:
        self._hold_out = index % HOLD_OUT_EVERY == 1
        self._begin_pass()

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that the next group is added to, as arrays; see `restore`. Between groups only."""
        out: dict[str, NDArray[Any]] = {f"{name}.n_seen": counts for name, counts in self.counts.items()}
        out |= {f"{name}.n_rows": np.array(n) for name, n in self._n_rows.items()}
        out |= {f"{name}.owner": np.array(owner) for name, owner in self._owner.items()}
        for name in dict.fromkeys(self._owner.values()):
            out[f"{name}.shape"] = np.array([self.moments[name].fit.width, self.moments[name].fit.n_per_row])
            for part in ("fit", "held_out"):
                sums: Covariance = getattr(self.moments[name], part)
                out |= {f"{name}.{part}.{key}": getattr(sums, key) for key in _COVARIANCE}
        return out

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state` of an earlier run. Raises KeyError where it is not whole."""
        self.counts = dict(_ending(state, ".n_seen"))
        self._n_rows = Counter({name: int(n) for name, n in _ending(state, ".n_rows")})
        self._owner = {name: str(owner) for name, owner in _ending(state, ".owner")}
        owned = {}
        for name in dict.fromkeys(self._owner.values()):
            width, n_per_row = map(int, state[f"{name}.shape"])
            parts = ({key: state[f"{name}.{part}.{key}"] for key in _COVARIANCE} for part in ("fit", "held_out"))
            owned[name] = Moments(*(Covariance(**arrays, width=width, n_per_row=n_per_row) for arrays in parts))
        self.moments = {name: owned[owner] for name, owner in self._owner.items()}

    def _begin_pass(self) -> None:
        """The next micro-batch: its inputs lie in the same places as the last one's."""
        self._seen.clear()
        self._first.clear()

    def __call__(self, seen: Activations) -> None:
        if seen.name in self._seen:
            self._begin_pass()
        self._seen.add(seen.name)
        if seen.experts is not None:
            now = np.bincount(seen.experts.reshape(-1), minlength=seen.n_expert)
            self.counts[seen.name] = now + self.counts.get(seen.name, 0)
        weights = self._weights_of(seen)
        first = self._first.setdefault((seen.source, seen.n_expert), seen.name)
        owner = self._owner.setdefault(seen.name, first if weights is None else seen.name)
        if owner != seen.name:
            self.moments[seen.name] = self.moments[owner]
            return
        if seen.name not in self.moments:
            shape = seen.n_expert, seen.x.shape[2]
            fit, held = (Covariance.zeros(*shape, width=width_of(shape)) for _ in range(2))
            self.moments[seen.name] = Moments(fit, held)
        pair = self.moments[seen.name]
        (pair.held_out if self._hold_out else pair.fit).add(seen.x, seen.experts, weights, self._each)

    def _weights_of(self, seen: Activations) -> F32Array | None:
        """(n_tokens, n_slot) what each token in hand counts for, None where all count alike."""
        if self._weights is None:
            return None
        first = self._n_rows[seen.name]
        self._n_rows[seen.name] += len(seen.x)
        return self._weights.of(seen.name, first, len(seen.x))


def _ending(state: Mapping[str, NDArray[Any]], suffix: str) -> Iterator[tuple[str, NDArray[Any]]]:
    return ((key.removesuffix(suffix), value) for key, value in state.items() if key.endswith(suffix))
