"""`Evidence`: second moments of the inputs of every matrix, gathered from a text in two parts.

One group of chunks in five is held out: what is fitted on the other four is judged on it. Moments are gathered layer by
layer when they are first asked for, as many layers in one walk through the text as fit in `max_nbytes`, and dropped
when later layers are gathered; so memory is bounded, and time grows with the number of walks.

    expert's moments = (its own sum + n_per_row · mean over its layer) / (its own count + n_per_row)

An expert that was hardly seen borrows from its layer, and is damped more when its curvature is made.

Knows tensors by name and a GGUF that runs. Does not know types or encoders. Callable from several threads.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError
from ggufkit.recipes.quantizable import layer_of
from ggufkit.runtime.activations import Activations
from ggufkit.runtime.engine import Device
from ggufkit.workflows.gather import GROUP_CHUNKS, N_CTX, OnChunk, observe_text
from quant.covariance import Covariance, block_width
from quant.feedback import Curvature, curvature, damping_for

F32Array = NDArray[np.float32]
I64Array = NDArray[np.int64]

HOLD_OUT_EVERY = 5
MAX_WIDTH = 4096  # columns that know of each other; wider rows are cut into equal blocks
DEFAULT_MAX_NBYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Moments:
    """One tensor's inputs in both parts of the text."""

    fit: Covariance
    held_out: Covariance

    def of_expert(self, expert: int) -> tuple[F32Array, F32Array]:
        """Mean second moments (n_block, width, width) of one expert: to fit on, and to judge on."""
        return _mean(self.fit, expert), _mean(self.held_out, expert)

    def curvature(self, expert: int) -> Curvature:
        """What error feedback needs, damped for the tokens that the expert saw."""
        width = self.fit.sums.shape[2]
        n_tokens = float(self.fit.counts[expert]) + _prior(self.fit)
        return curvature(_mean(self.fit, expert), damping=damping_for(n_tokens, width))

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


def _mean(part: Covariance, expert: int) -> F32Array:
    total, prior = part.sums[expert], _prior(part)
    if prior:
        total = total + (prior / float(part.counts.sum())) * part.sums.sum(axis=0)
    mean: F32Array = (total / max(float(part.counts[expert]) + prior, 1.0)).astype(np.float32)
    return mean


@dataclass(frozen=True, slots=True)
class Corpus:
    """What evidence is gathered from. `n_tokens` None reads the whole text."""

    model: Path
    text: str
    n_tokens: int | None = None
    n_ctx: int = N_CTX
    threads: int | None = None
    device: Device = Device.AUTO


class Evidence:
    """Moments by tensor name. `shapes`: (n_expert, n_per_row) of every tensor that may be asked for."""

    def __init__(
        self,
        corpus: Corpus,
        shapes: Mapping[str, tuple[int, int]],
        *,
        max_nbytes: int = DEFAULT_MAX_NBYTES,
        on_chunk: OnChunk = lambda *_: None,
    ) -> None:
        self._corpus, self._on_chunk = corpus, on_chunk
        self._shapes = dict(shapes)
        self._walks = walks(self._shapes, max_nbytes)
        self._lock = threading.Lock()
        self._held: dict[int, dict[str, Moments]] = {}  # by walk; the last two stay

    @property
    def n_walks(self) -> int:
        """Walks through the text that all tensors together take."""
        return len(self._walks)

    def of(self, name: str) -> Moments | None:
        """Moments of a tensor, None where nothing was seen of its inputs. Walks through the text where needed."""
        walk = next((i for i, names in enumerate(self._walks) if name in names), None)
        if walk is None:
            return None
        with self._lock:
            if walk not in self._held:
                self._held = {i: self._held[i] for i in list(self._held)[-1:]}
                self._held[walk] = self._gather(self._walks[walk])
            return self._held[walk].get(name)

    def _gather(self, names: frozenset[str]) -> dict[str, Moments]:
        observer = _MomentsObserver()
        n_chunk = observe_text(
            self._corpus.model, self._corpus.text, observer, wants=names.__contains__,
            n_tokens=self._corpus.n_tokens, spread=True, n_ctx=self._corpus.n_ctx, threads=self._corpus.threads,
            device=self._corpus.device, on_chunk=self._chunk_seen(observer),
        )  # fmt: skip
        if n_chunk <= GROUP_CHUNKS:
            raise InputError(
                f"the calibration text has {n_chunk} chunks of {self._corpus.n_ctx} tokens; fitting needs more than "
                f"{GROUP_CHUNKS}, a part to fit on and a part to judge on. Pass more text, or --effort fast."
            )
        return observer.moments

    def _chunk_seen(self, observer: "_MomentsObserver") -> OnChunk:
        def on_chunk(done: int, total: int) -> None:
            observer.next_group(-(-done // GROUP_CHUNKS))
            self._on_chunk(done, total)

        return on_chunk


def walks(shapes: Mapping[str, tuple[int, int]], max_nbytes: int) -> list[frozenset[str]]:
    """Names that are gathered together: whole layers in order, within `max_nbytes` where one layer fits."""
    by_layer: dict[int, list[str]] = {}
    for name in shapes:
        by_layer.setdefault(layer_of(name) if layer_of(name) >= 0 else 1 << 30, []).append(name)
    out: list[frozenset[str]] = []
    now: list[str] = []
    used = 0
    for layer in sorted(by_layer):
        need = sum(moments_nbytes(shapes[name]) for name in by_layer[layer])
        if now and used + need > max_nbytes:
            out.append(frozenset(now))
            now, used = [], 0
        now += by_layer[layer]
        used += need
    return [*out, frozenset(now)] if now else out


def moments_nbytes(shape: tuple[int, int]) -> int:
    """Bytes of both parts of one tensor (n_expert, n_per_row); an upper bound, shared inputs are kept once."""
    n_expert, n_per_row = shape
    return 2 * 4 * n_expert * n_per_row * block_width(n_per_row, MAX_WIDTH)


class _MomentsObserver:
    """Adds to the part that the group in hand belongs to. Tensors with one input share one pair of covariances."""

    def __init__(self) -> None:
        self.moments: dict[str, Moments] = {}
        self._owner: dict[str, str] = {}  # tensor -> the tensor that gathers for it
        self._first: dict[int, str] = {}  # of the micro-batch in hand: input -> its first tensor
        self._seen: set[str] = set()
        self._hold_out = False

    def next_group(self, index: int) -> None:
        self._hold_out = index % HOLD_OUT_EVERY == 1

    def __call__(self, seen: Activations) -> None:
        if seen.name in self._seen:
            self._seen.clear()
            self._first.clear()
        self._seen.add(seen.name)
        owner = self._owner.setdefault(seen.name, self._first.setdefault(seen.source, seen.name))
        if owner != seen.name:
            self.moments[seen.name] = self.moments[owner]
            return
        if seen.name not in self.moments:
            n_expert, n_per_row = seen.n_expert, seen.x.shape[2]
            fit, held = (Covariance.zeros(n_expert, n_per_row, max_width=MAX_WIDTH) for _ in range(2))
            self.moments[seen.name] = Moments(fit, held)
        pair = self.moments[seen.name]
        (pair.held_out if self._hold_out else pair.fit).add(seen.x, seen.experts)
