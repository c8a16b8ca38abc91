"""`Evidence`: second moments of the inputs of every matrix, gathered from a text in two parts.

One group of chunks in five is held out: what is fitted on the other four is judged on it. Moments are gathered when
they are first asked for, those of one walk through the text together, and dropped when later ones are gathered; so
memory is bounded, and time grows with the number of walks.

    expert's moments = (its own sum + n_per_row · mean over its layer) / (its own count + n_per_row)

An expert that was hardly seen borrows from its layer, and is damped more when its curvature is made.

Knows tensors by name and a GGUF that runs. Does not know types or encoders. Callable from several threads.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError
from ggufkit.fitting.coverage import Coverage, coverage_of
from ggufkit.fitting.gather import GROUP_CHUNKS, N_CTX, OnChunk, observe_text
from ggufkit.fitting.walks import MAX_WIDTH, plan_walks
from ggufkit.recipes.quantizable import layer_of
from ggufkit.runtime.activations import Activations
from ggufkit.runtime.engine import Device
from quant.covariance import Covariance
from quant.feedback import Curvature, curvature, damping_for

F32Array = NDArray[np.float32]

HOLD_OUT_EVERY = 5
DEFAULT_MAX_NBYTES = 4 << 30
_CASES_NBYTES = 256 << 20  # experts in hand are kept up to this size, and two of them in any case


@dataclass(frozen=True, slots=True)
class ExpertEvidence:
    """What is known of one expert's inputs.

    importance  (n_per_row,) mean squared input of each column, from the text to fit on
    curve       second moments and their factor, damped for the tokens that the expert saw, from the same text
    held_out    (n_block, width, width) mean second moments, from the text to judge on
    """

    importance: F32Array
    curve: Curvature
    held_out: F32Array

    @property
    def nbytes(self) -> int:
        return self.curve.moments.nbytes + self.curve.factor.nbytes + self.held_out.nbytes


@dataclass(frozen=True, slots=True)
class Moments:
    """One tensor's inputs in both parts of the text."""

    fit: Covariance
    held_out: Covariance

    def of_expert(self, expert: int) -> ExpertEvidence:
        """Evidence of one expert, with its layer's as far as its own is thin."""
        mean, prior = self.fit.mean(expert, _prior(self.fit)), _prior(self.fit)
        importance = np.ascontiguousarray(np.diagonal(mean, axis1=1, axis2=2).reshape(-1))
        damping = damping_for(float(self.fit.counts[expert]) + prior, mean.shape[1])
        held_out = self.held_out.mean(expert, _prior(self.held_out))
        return ExpertEvidence(importance, curvature(mean, damping=damping), held_out)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was seen of the inputs, or nothing but zeros."""
        return not np.diagonal(self.fit.sums, axis1=2, axis2=3).any()

    def shares(self) -> NDArray[np.float64]:
        """(n_expert,) part of the tokens that each expert saw; sums to 1."""
        counts = (self.fit.counts + self.held_out.counts).astype(np.float64)
        if len(counts) == 1:
            return np.ones(1)
        out: NDArray[np.float64] = counts / max(1.0, float(counts.sum()))
        return out


def _prior(part: Covariance) -> float:
    """Tokens of the layer's mean that every expert gets: as many as a row has columns. None where nothing was seen."""
    return float(part.n_per_row) if len(part.counts) > 1 and part.counts.any() else 0.0


@dataclass(frozen=True, slots=True)
class Corpus:
    """What evidence is gathered from. `n_tokens` None reads the whole text.

    type_name  of the model's file where it was made for this, "" where it is the source itself
    """

    model: Path
    text: str
    n_tokens: int | None = None
    n_ctx: int = N_CTX
    threads: int | None = None
    device: Device = Device.AUTO
    type_name: str = ""


class Evidence:
    """Moments by tensor name. `shapes`: (n_expert, n_per_row) of every tensor that may be asked for, in the order in
    which they will be."""

    def __init__(
        self,
        corpus: Corpus,
        shapes: Mapping[str, tuple[int, int]],
        *,
        max_nbytes: int = DEFAULT_MAX_NBYTES,
        on_chunk: OnChunk = lambda *_: None,
    ) -> None:
        self.corpus, self.on_chunk = corpus, on_chunk
        self._walks = plan_walks(shapes, max_nbytes)
        self._lock, self._cases_lock = threading.Lock(), threading.Lock()
        self._held: dict[int, dict[str, Moments]] = {}  # by walk; the last two stay, for workers that are not done
        self._cases: OrderedDict[tuple[str, int], ExpertEvidence] = OrderedDict()
        self._experts = _routed(shapes)
        self._coverage: Coverage | None = None

    @property
    def n_walks(self) -> int:
        """Walks through the text that all tensors together take."""
        return len(self._walks)

    @property
    def coverage(self) -> Coverage:
        """Tokens that each expert of each layer saw. The first walk counts them."""
        with self._lock:
            if self._coverage is None:
                self._held[0] = self._gather(self._walks[0])
            assert self._coverage is not None
            return self._coverage

    def of(self, name: str) -> Moments | None:
        """Moments of a tensor, None where nothing was seen of its inputs. Walks through the text where needed."""
        walk = next((i for i, names in enumerate(self._walks) if name in names), None)
        if walk is None:
            return None
        with self._lock:
            if walk not in self._held:
                self._held = {i: self._held[i] for i in list(self._held)[-1:]}
                self._held[walk] = self._gather(self._walks[walk])
            found = self._held[walk].get(name)
        return None if found is None or found.is_empty else found

    def of_expert(self, name: str, expert: int) -> ExpertEvidence | None:
        """Evidence of one expert; made once while experts are asked for in order."""
        moments = self.of(name)
        if moments is None:
            return None
        with self._cases_lock:  # others that want the same one wait for it
            found = self._cases.get((name, expert))
            if found is None:
                while len(self._cases) > 1 and sum(case.nbytes for case in self._cases.values()) > _CASES_NBYTES:
                    self._cases.popitem(last=False)
                found = self._cases[name, expert] = moments.of_expert(expert)
        return found

    def _gather(self, names: frozenset[str]) -> dict[str, Moments]:
        counted = self._experts if self._coverage is None else frozenset()
        observer = _MomentsObserver(names)
        wanted = names | counted
        n_chunk = observe_text(
            self.corpus.model, self.corpus.text, observer, wants=wanted.__contains__,
            n_tokens=self.corpus.n_tokens, spread=True, n_ctx=self.corpus.n_ctx, threads=self.corpus.threads,
            device=self.corpus.device, on_chunk=self._chunk_seen(observer),
        )  # fmt: skip
        if n_chunk <= GROUP_CHUNKS:
            raise InputError(
                f"the calibration text has {n_chunk} chunks of {self.corpus.n_ctx} tokens; fitting needs more than "
                f"{GROUP_CHUNKS}, a part to fit on and a part to judge on. Pass more text, or --effort fast."
            )
        if self._coverage is None:
            self._coverage = coverage_of(observer.counts, n_chunk * self.corpus.n_ctx)
        return observer.moments

    def _chunk_seen(self, observer: "_MomentsObserver") -> OnChunk:
        def on_chunk(done: int, total: int) -> None:
            observer.next_group(-(-done // GROUP_CHUNKS))
            self.on_chunk(done, total)

        return on_chunk


def _routed(shapes: Mapping[str, tuple[int, int]]) -> frozenset[str]:
    """One expert stack of every layer that has some."""
    by_layer = {layer_of(name): name for name, (n_expert, _) in shapes.items() if n_expert > 1}
    return frozenset(by_layer.values())


class _MomentsObserver:
    """Adds to the part that the group in hand belongs to. Tensors with one input share one pair of covariances.

    names   whose moments are wanted; of other tensors only the tokens of each expert are counted
    counts  (n_expert,) int64 by name
    """

    def __init__(self, names: frozenset[str]) -> None:
        self.moments: dict[str, Moments] = {}
        self.counts: dict[str, NDArray[np.int64]] = {}
        self._names = names
        self._owner: dict[str, str] = {}  # tensor -> the tensor that gathers for it
        self._first: dict[tuple[int, int], str] = {}  # of the micro-batch in hand: input, n_expert -> its first tensor
        self._seen: set[str] = set()
        self._hold_out = False

    def next_group(self, index: int) -> None:
        self._hold_out = index % HOLD_OUT_EVERY == 1

    def __call__(self, seen: Activations) -> None:
        if seen.name in self._seen:
            self._seen.clear()
            self._first.clear()
        self._seen.add(seen.name)
        if seen.experts is not None:
            now = np.bincount(seen.experts.reshape(-1), minlength=seen.n_expert)
            self.counts[seen.name] = now + self.counts.get(seen.name, 0)
        if seen.name not in self._names:
            return
        first = self._first.setdefault((seen.source, seen.n_expert), seen.name)
        owner = self._owner.setdefault(seen.name, first)
        if owner != seen.name:
            self.moments[seen.name] = self.moments[owner]
            return
        if seen.name not in self.moments:
            n_expert, n_per_row = seen.n_expert, seen.x.shape[2]
            fit, held = (Covariance.zeros(n_expert, n_per_row, max_width=MAX_WIDTH) for _ in range(2))
            self.moments[seen.name] = Moments(fit, held)
        pair = self.moments[seen.name]
        (pair.held_out if self._hold_out else pair.fit).add(seen.x, seen.experts)
