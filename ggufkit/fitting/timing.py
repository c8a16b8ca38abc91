"""Rates measured on one layer of the model in hand: what it takes to read, to watch, to take back and to encode it.

Rows of noise go in: what is computed does not depend on them, and the text need not be read. Knows a model, a plan and
an effort. Does not know how much is going to be done.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.fitting.couplings import group_of
from ggufkit.fitting.duration import active_weights, moments_madds
from ggufkit.fitting.encoders import REFINE_ROUNDS, Effort, encode_fitted, fits, n_products
from ggufkit.fitting.moments import ExpertEvidence, MomentsObserver, PlainEvidence
from ggufkit.fitting.rates import Rates
from ggufkit.fitting.sensitivity import candidates, sample_rows
from ggufkit.fitting.sources.cut import cut, input_scale
from ggufkit.fitting.sources.layer_run import LayerRun
from ggufkit.fitting.sources.layer_tape import LayerTape
from ggufkit.fitting.sources.scratch import write_as_it_is
from ggufkit.fitting.token_weights import GradientSums, TokenWeights
from ggufkit.fitting.trial_encoding import type_cost
from ggufkit.fitting.walks import width_of
from ggufkit.formats.model import Model, ModelTensor
from ggufkit.recipes.plan import QuantPlan
from ggufkit.recipes.quantizable import kept_reason
from ggufkit.runtime.activations import Activations
from ggufkit.runtime.loading import Device
from quant import feedback
from quant.coupling import step_rows
from quant.covariance import Each
from quant.curvature import LEAF, curvature

F32Array = NDArray[np.float32]

_MOST_MADDS = 6e10  # of the part of a chunk that is taken back
_MAX_TOKENS, _LEAST_TOKENS, _WARM_TOKENS = 512, 64, 16
_SLAB_WEIGHTS = 1 << 20
_SLAB_MADDS = 1e10  # of the rows that are encoded at a time, some tenths of a second
_LEAST_ROWS = 16
_WORTH = 0.05  # of the weights: types of fewer are taken to be as fast as others


def measured_rates(
    model: Model, plan: QuantPlan, effort: Effort, *, threads: int, device: Device = Device.AUTO, folder: Path
) -> Rates:
    """Rates of this machine, in a few seconds; a layer is written to `folder` and removed again.

    plan    types that are going to be encoded
    effort  that they are encoded with

    Raises EngineError for a family whose layers are not run alone, InputError where the weights are not there.
    """
    layer = model.hparams.n_layer // 2
    part = cut(model, layer, layer + 1)
    n = int(min(_MAX_TOKENS, max(_LEAST_TOKENS, _MOST_MADDS / max(1.0, _active(part)))))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".ggufkit-") as work:
        path = Path(work) / "layer.gguf"
        copying = _seconds(lambda: write_as_it_is(path, part, threads=threads))
        copy = path.stat().st_size / copying
        back, weights = _taken_back(path, part, n, threads)
        with ThreadPoolExecutor(threads) as pool:
            watch = _Watch(part, weights, pool.map)
            reading, moments = _watched(path, part, watch, threads, device)
            with np.errstate(all="ignore"):  # noise may leave a matrix without an input
                cases, factored = _cases(watch.observer, part, pool.map)
    return Rates(
        reading=reading,
        back=back,
        moments=moments,
        copy=copy,
        table={n: _table_rate(tensor, known, effort, threads) for n, (tensor, known) in cases.items()},
        encode=_encode_rates(plan, cases, effort, threads),
        curvature=factored,
    )


def _active(part: Model) -> float:
    return active_weights([t for t in part.tensors if t.name.startswith("blk.0.")], part)


def _taken_back(path: Path, part: Model, n: int, threads: int) -> tuple[float, TokenWeights]:
    """Multiply-adds a second of a chunk that goes there and back, and what its tokens weigh."""
    sums, x = GradientSums(lambda _: True), _noise(n, part)
    with LayerTape(
        path, n_ctx=n, threads=threads, on_output=lambda *_: None, takes_rows=True, with_head=False
    ) as warm:  # fmt: skip
        _there_and_back(warm, x[:_WARM_TOKENS])
    with LayerTape(path, n_ctx=n, threads=threads, on_output=sums, takes_rows=True, with_head=False) as tape:
        seconds = _seconds(lambda: _there_and_back(tape, x))
    return n * _active(part) / seconds, TokenWeights(sums.stiffness(np.arange(1), n), 1, n)


def _there_and_back(tape: LayerTape, x: F32Array) -> None:
    tape.forward(x)
    tape.back(x)


class _Watch:
    """Gathers moments of one tensor of each number of columns, the smallest, or, while nobody is to look, nothing."""

    def __init__(self, part: Model, weights: TokenWeights, each: Each) -> None:
        tensors = [t for t in part.tensors if kept_reason(t) is None and t.name.startswith("blk.0.")]
        smallest = {t.n_per_row: t for t in sorted(tensors, key=lambda t: -t.n_expert)}
        self.shapes = {t.name: (t.n_expert, t.n_per_row) for t in smallest.values()}
        self.looks, self.observer = False, MomentsObserver(frozenset(self.shapes), weights, each)

    def wants(self, name: str) -> bool:
        return self.looks and name in self.shapes

    def __call__(self, seen: Activations) -> None:
        self.observer(seen)


def _watched(path: Path, part: Model, watch: _Watch, threads: int, device: Device) -> tuple[float, float]:
    """Multiply-adds a second of reading a chunk, and of its moments on top, once their memory is there."""
    x = _noise(_MAX_TOKENS, part)
    with LayerRun(
        path, n_ctx=_MAX_TOKENS, threads=threads, device=device, input_scale=input_scale(part),
        observe=watch, wants=watch.wants,
    ) as run:  # fmt: skip
        run(x[:_WARM_TOKENS])
        alone = _seconds(lambda: run(x))
        watch.looks = True
        watch.observer.begin_group(0)
        run(x)
        watched = _seconds(lambda: run(x))
        watch.observer.begin_group(1)  # which is held out
        run(x[:_LEAST_TOKENS])
    madds = len(x) * moments_madds(watch.shapes, part)
    return len(x) * _active(part) / alone, madds / max(watched - alone, 0.01 * alone)


def _cases(
    observer: MomentsObserver, part: Model, each: Each
) -> tuple[dict[int, tuple[ModelTensor, ExpertEvidence]], dict[int, float]]:
    """By number of columns: a tensor with what is known of its inputs, and the seconds that took."""
    cases: dict[int, tuple[ModelTensor, ExpertEvidence]] = {}
    seconds: dict[int, float] = {}
    curvature(np.eye(2 * LEAF, dtype=np.float32)[None])  # whose kernels are compiled now, if ever
    for tensor in part.tensors:
        moments = observer.moments.get(tensor.name)
        if moments is None or moments.is_empty or tensor.n_per_row in cases:
            continue
        expert = int(np.argmax(moments.fit.counts))
        with _timed(seconds, tensor.n_per_row):
            cases[tensor.n_per_row] = tensor, moments.of_expert(expert, each=each)
    return cases, seconds


def _encode_rates(
    plan: QuantPlan, cases: Mapping[int, tuple[ModelTensor, ExpertEvidence]], effort: Effort, threads: int
) -> dict[tuple[str, int], float]:
    """Weights a second by type and columns, of those that most weights are of."""
    weights: Counter[tuple[str, int]] = Counter()
    largest: dict[tuple[str, int], ModelTensor] = {}
    for t in sorted(plan.tensors, key=lambda t: t.tensor.n_weights):
        if t.qtype.is_quantized and t.tensor.n_per_row in cases:
            weights[t.qtype.name, t.tensor.n_per_row] += t.tensor.n_weights
            largest[t.qtype.name, t.tensor.n_per_row] = t.tensor
    total = sum(weights.values())
    common = [key for key, n in weights.items() if n >= _WORTH * total]
    return {key: _encode_rate(key[0], largest[key], cases[key[1]][1], effort, threads) for key in common}


def _encode_rate(type_name: str, tensor: ModelTensor, known: ExpertEvidence, effort: Effort, threads: int) -> float:
    """Weights a second with all threads at work."""
    qtype = quant.quant_type(type_name)
    w = tensor.rows(0, 0, min(tensor.n_rows, _slab_rows(tensor, effort)))

    def encode(rows: F32Array) -> None:
        if effort is Effort.FAST or not fits(qtype, known.curve.width):
            quant.quantize(rows, qtype, importance=known.importance)
        else:
            encode_fitted(rows, qtype, known, REFINE_ROUNDS[effort])

    encode(w[:2])
    with ThreadPoolExecutor(threads) as pool:
        seconds = _seconds(lambda: list(pool.map(encode, [w] * threads)))
    return threads * w.size / seconds


def _slab_rows(tensor: ModelTensor, effort: Effort) -> int:
    if effort is not Effort.FAST and (n := group_of(tensor)):
        return step_rows(n, tensor.n_per_row)
    width = width_of((tensor.n_expert, tensor.n_per_row))
    madds = n_products(effort) * tensor.n_per_row * width
    most = _SLAB_WEIGHTS // tensor.n_per_row
    return int(max(_LEAST_ROWS, min(most, most if effort is Effort.FAST else _SLAB_MADDS / madds)))


def _table_rate(tensor: ModelTensor, evidence: ExpertEvidence, effort: Effort, threads: int) -> float:
    """Weights of sampled rows a second, at all types that the tensor may get; by the coarsest and the finest."""
    names, held_out = candidates(tensor), evidence.held_out
    known = PlainEvidence(evidence.importance, held_out) if effort is Effort.FAST else evidence
    rows = tensor.rows(0, 0, sample_rows(tensor))

    def cost(_: slice, error: F32Array) -> float:
        assert held_out is not None, "as costs are"
        return float(feedback.energies(error, held_out).sum())

    def encode(name: str, w: F32Array = rows) -> None:
        type_cost(w, name, known, cost)

    if not names:
        return np.inf
    ends = [names[-(i % 2)] for i in range(2 * threads)]
    for name in ends[:2]:
        encode(name, rows[:2])
    with ThreadPoolExecutor(threads) as pool:
        seconds = _seconds(lambda: list(pool.map(encode, ends)))
    return rows.size * len(ends) / len(names) / seconds


def _noise(n: int, part: Model) -> F32Array:
    return np.random.default_rng(0).standard_normal((n, part.hparams.n_embd)).astype(np.float32)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return max(time.perf_counter() - started, 1e-9)


@contextmanager
def _timed(into: dict[int, float], key: int) -> Iterator[None]:
    started = time.perf_counter()
    yield
    into[key] = time.perf_counter() - started
