"""What each token counts for in the moments of each matrix: how much an error of its product moves the predictions.

    KL divergence of small errors ΔW   ≈   ½ Σ_t (g_tᵀ ΔW x_t)²       g_t  gradient at the product of token t, of the
    weight of token t                  =   |g_t|² / their mean             log-likelihood of tokens drawn from the model

Counting every token alike spends the few that the model looks at most: on many models the first token of a text holds
most of the attention of most layers, is one token in 512 of the evidence, and nine tenths of what values answer for.

Gradients are taken for a part of the chunks, evenly spread. Tokens of other chunks count as those at their position do
on average; behind the first few positions all are alike.

Knows a corpus and a GGUF that runs. Does not know moments, types or encoders. Amari (1998); van Baalen et al.,
GuidedQuant (2505.07004) use the same weights for other formats.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ggufkit.encoding.slabs import ONE_BY_ONE
from ggufkit.errors import EngineError
from ggufkit.fitting.corpus import Corpus, corpus_chunks
from ggufkit.fitting.sources import OnChunk
from ggufkit.runtime.backward import Backward
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.library import load
from ggufkit.runtime.loading import Device
from ggufkit.runtime.machine import choose_threads
from ggufkit.runtime.tape import Tape, looked_up
from quant.covariance import Covariance, Each

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]

MAX_CHUNKS = 24  # that gradients are taken for
FLOOR = (
    0.2  # of the mean weight, that every token counts at least: where few tokens weigh nearly all, they are not alone
)
_HEAD = 8  # positions with a mean of their own
_SEED = 20_261_126
_SLAB_TOKENS = 64  # are squared at a time


@dataclass(frozen=True, slots=True)
class Stiffness:
    """How much the predictions resist errors of one matrix's products.

    weights   (n_chunk, n, n_slot) float32, |g_t|² of the tokens whose gradient was taken, by mean 1
    chunks    (n_chunk,) which chunks of the corpus these are
    mean      mean |g_t|² over all tokens, nats² over the product's unit squared
    rows      (n_rows,) float64, each row's share of it; sums to 1
    together  (n_group, …) float32, sums of products of gradients within each group of rows, as strips of
              `quant.covariance`; None where rows are not coupled, or once that is kept elsewhere
    """

    weights: F32Array
    chunks: NDArray[np.int64]
    mean: float
    rows: F64Array
    together: F32Array | None = None


class TokenWeights:
    """Weights of all tokens of a corpus, by tensor.

    notes  lines that a person should see: where gradients could not be taken back
    """

    def __init__(self, by_name: Mapping[str, Stiffness], n_chunk: int, n_ctx: int, notes: tuple[str, ...] = ()) -> None:
        self.by_name, self.notes = by_name, notes
        self._n_chunk, self._n_ctx = n_chunk, n_ctx

    def state(self) -> dict[str, NDArray[Any]]:
        """All of it as arrays; see `restored`."""
        out: dict[str, NDArray[Any]] = {"n_chunk": np.array(self._n_chunk), "n_ctx": np.array(self._n_ctx)}
        for name, one in self.by_name.items():
            out |= {f"weights/{name}": one.weights, f"chunks/{name}": one.chunks, f"rows/{name}": one.rows}
            out[f"mean/{name}"] = np.array(one.mean)
            if one.together is not None:
                out[f"together/{name}"] = one.together
        return out | {"notes": np.array(self.notes, dtype=str)}

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """From what `state` gave."""
        names = [key.removeprefix("weights/") for key in state if key.startswith("weights/")]
        by_name = {
            name: Stiffness(
                state[f"weights/{name}"],
                state[f"chunks/{name}"],
                float(state[f"mean/{name}"]),
                state[f"rows/{name}"],
                state.get(f"together/{name}"),
            )
            for name in names
        }
        notes = tuple(str(note) for note in state["notes"])
        return cls(by_name, int(state["n_chunk"]), int(state["n_ctx"]), notes)

    def with_all(self, by_name: Mapping[str, Stiffness]) -> "TokenWeights":
        """The same with other figures of its tensors."""
        return TokenWeights(by_name, self._n_chunk, self._n_ctx, self.notes)

    def only(self, names: Collection[str]) -> "TokenWeights":
        """Those of these tensors."""
        by_name = {name: one for name, one in self.by_name.items() if name in names}
        return TokenWeights(by_name, self._n_chunk, self._n_ctx)

    def of(self, name: str, first: int, n: int) -> F32Array | None:
        """(n, n_slot) of the tokens from number `first` on, None for a tensor that no gradient came to."""
        found = self.by_name.get(name)
        if found is None:
            return None
        at = np.arange(first, first + n)
        chunk, position = at // self._n_ctx, at % self._n_ctx
        place = np.searchsorted(found.chunks, chunk)
        place = np.minimum(place, len(found.chunks) - 1)
        measured = (found.chunks[place] == chunk) & (position < found.weights.shape[1])
        usual = _by_position(found.weights, self._n_ctx)
        last = found.weights.shape[1] - 1
        own = found.weights[place, np.minimum(position, last)]
        weights: F32Array = np.where(measured[:, None], own, usual[position])
        return np.float32(1 - FLOOR) * weights + np.float32(FLOOR)


def _by_position(weights: F32Array, n_ctx: int) -> F32Array:
    """(n_ctx, n_slot) mean weights: of each of the first positions, and one of all others."""
    out = np.empty((n_ctx, weights.shape[2]), dtype=np.float32)
    out[:_HEAD] = weights[:, :_HEAD].mean(axis=(0, 2), dtype=np.float64)[:, None]
    if len(out) > _HEAD:
        out[_HEAD:] = weights[:, _HEAD:].mean(dtype=np.float64)
    return out


def measure_weights(
    corpus: Corpus,
    wants: Callable[[str], bool],
    on_chunk: OnChunk = lambda *_: None,
    *,
    n_ctx: int | None = None,
    max_chunks: int = MAX_CHUNKS,
    groups: Mapping[str, int] = ONE_BY_ONE,
) -> TokenWeights:
    """Run part of the corpus through its GGUF and back.

    n_ctx   tokens at the beginning of each chunk that are run, None all
    groups  see `GradientSums`

    Raises InputError for a text that is too short, EngineError where the model does not run on the CPU.
    """
    tape, n_ctx = Tape(load()), min(n_ctx or corpus.n_ctx, corpus.n_ctx)
    n_threads = corpus.threads or choose_threads().n
    sums = GradientSums(wants, groups)
    back = Backward(tape, sums, n_threads)
    try:
        with Engine.open(
            corpus.model, n_ctx=n_ctx, n_batch=n_ctx, n_ubatch=n_ctx, n_outputs=n_ctx,
            threads=n_threads, device=Device.CPU, flash_attn=False, use_extra_bufts=False, eval_callback=tape.callback,
        ) as engine:  # fmt: skip
            chunks = corpus_chunks(engine.vocab, corpus)
            picked = picked_chunks(len(chunks), max_chunks)
            for done, index in enumerate(picked):
                _one_chunk(engine, tape, back, chunks[index, :n_ctx], int(index))
                on_chunk(done + 1, len(picked))
    finally:
        back.close()
    return TokenWeights(sums.stiffness(picked, n_ctx), len(chunks), corpus.n_ctx, ended_notes(back.ended_at))


def picked_chunks(n_chunk: int, max_chunks: int) -> NDArray[np.int64]:
    """Which chunks of a corpus gradients are taken for, evenly spread, in order."""
    n = min(max_chunks, n_chunk)
    return (np.arange(n) * n_chunk + n_chunk // 2) // n


def ended_notes(ended_at: Iterable[str]) -> tuple[str, ...]:
    """What a person should see of operations that no gradient came through."""
    ended = ", ".join(sorted(ended_at))
    return (f"no gradient is known of {ended}: tokens are weighed without what lies behind it",) if ended else ()


def _one_chunk(engine: Engine, tape: Tape, back: Backward, chunk: NDArray[np.int32], index: int) -> None:
    tape.clear()
    engine.clear()
    try:
        engine.decode(chunk, 0, logits=1)
    except EngineError:
        tape.reraise()
        raise
    tape.reraise()
    back(drawn_gradient(engine.logits(len(chunk)), draws(index, len(chunk))))
    tape.clear()


def draws(chunk: int, n: int) -> F64Array:
    """(n,) of [0, 1), by which tokens are drawn at each position of the chunk of that number, however it is run."""
    return np.random.default_rng([_SEED, chunk]).random(n)


def drawn_gradient(logits: F32Array, at: F64Array) -> F32Array:
    """Gradient of the log-likelihood of one token a row, drawn from its own distribution by `draws`: one - p."""
    p: F32Array = logits - logits.max(axis=1, keepdims=True)
    np.exp(p, out=p)  # of large vocabularies each copy counts
    p /= p.sum(axis=1, keepdims=True)
    for row, u in zip(p, at, strict=True):
        drawn = min(int(np.searchsorted(np.cumsum(row, dtype=np.float64), u)), len(row) - 1)
        np.negative(row, out=row)
        row[drawn] += 1
    return p


class GradientSums:
    """Squares of gradients by tensor, of each token and of each row, and products of those of rows.

    groups  rows of a group by name, within which rows are coupled; others are not
    each    `map`, or that of a pool whose threads share the products
    """

    def __init__(self, wants: Callable[[str], bool], groups: Mapping[str, int] = ONE_BY_ONE, each: Each = map) -> None:
        self._wants, self._groups, self._each = wants, groups, each
        self._tokens: dict[str, list[F32Array]] = {}
        self._rows: dict[str, F64Array] = {}
        self._together: dict[str, Covariance] = {}

    def __call__(self, name: str, gradient: F32Array, _experts: NDArray[np.int32] | None) -> None:
        if not self._wants(name.removesuffix(looked_up(""))):
            return
        tokens, rows = [], np.zeros(gradient.shape[2])
        for first in range(0, len(gradient), _SLAB_TOKENS):
            squares = np.square(gradient[first : first + _SLAB_TOKENS])
            tokens.append(squares.sum(axis=2))
            rows += squares.sum(axis=(0, 1), dtype=np.float64)
        self._tokens.setdefault(name, []).append(np.concatenate(tokens))
        self._rows[name] = self._rows.get(name, 0.0) + rows
        if name in self._groups and np.isfinite(rows).all():
            self._add_products(name, gradient.reshape(-1, 1, gradient.shape[2]))

    def _add_products(self, name: str, gradient: F32Array) -> None:
        """Of all experts together: what goes into the stream is looked at alike."""
        if name not in self._together:
            self._together[name] = Covariance.zeros(1, gradient.shape[2], width=self._groups[name])
        self._together[name].add(gradient, None, each=self._each)

    def stiffness(self, chunks: NDArray[np.int64], n: int) -> dict[str, Stiffness]:
        """Of the tensors that a finite gradient came to at all `n` tokens of these chunks, by name."""
        out = {}
        for name, tokens in self._tokens.items():
            weights = np.concatenate(tokens)
            mean = float(weights.mean(dtype=np.float64))
            if len(weights) == len(chunks) * n and np.isfinite(mean) and mean > 0:
                weights = weights.reshape(len(chunks), n, -1)
                rows = self._rows[name] / self._rows[name].sum()
                together = self._together[name].sums[0] if name in self._together else None
                out[name] = Stiffness(weights / np.float32(mean), chunks, mean, rows, together)
        return out
