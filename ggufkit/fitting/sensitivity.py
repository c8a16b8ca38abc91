"""What each tensor costs at each type, in nats of KL divergence: error tables and a few probes.

For every tensor and type, on a sample of rows encoded as in the final file, the relative output error on held-out text

    r = Σ_experts share · Σ_rows (ŵ - w) H (ŵ - w)ᵀ  /  Σ_experts share · Σ_rows w H wᵀ

and for a few types the divergence D of the whole model when that tensor alone is quantized (`WeightPatch`: no file is
written). Between the probes and beyond, D = a r + b √r with a, b ≥ 0: a smooth model answers an error quadratically,
and a router that sits near a tie is tipped over as often as the error is large. Probes are spread over the layers;
tensors of a layer in between take a and b from the same role in the nearest layer that was probed.

Knows models, evidence and types. Does not choose.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.errors import InputError
from ggufkit.fitting.corpus import GROUP_CHUNKS, Corpus, text_chunks
from ggufkit.fitting.encoders import fits
from ggufkit.fitting.evidence import Evidence
from ggufkit.formats.model import Model, ModelTensor
from ggufkit.progress import OnProgress, Progress, ignore
from ggufkit.recipes.quantizable import Role, kept_reason, layer_of, role_of
from ggufkit.recipes.search import Sensitivity
from ggufkit.runtime.engine import Device, Engine
from ggufkit.runtime.library import load
from ggufkit.runtime.patches import Differences, WeightPatch
from quant import feedback, logits
from quant.grid import has_grid

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]
I32Array = NDArray[np.int32]

TYPES = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q8_0")
SAMPLE_ROWS = 64  # of each expert, evenly spread, for the error tables
TABLE_REFINE = 2
MAX_PROBED_LAYERS = 8
PROBES = 3  # of a tensor that is probed


class Cost(NamedTuple):
    """D = quadratic · r + tipping · √r, nats."""

    quadratic: float
    tipping: float


def measure(
    model: Model,
    evidence: Evidence,
    corpus: Corpus,
    *,
    n_chunks: int = 16,
    ready: Callable[[], object] = lambda: None,
    on_progress: OnProgress = ignore,
) -> dict[str, Sensitivity]:
    """Tables and probes for every tensor that may be quantized, by name in the model's order.

    ready  called before the model is run, where it has to be

    Raises InputError for a text without enough chunks, EngineError where the model does not run on the CPU.
    """
    tensors, remember = tried_tensors(model), evidence.notebook.remember
    probed = probed_tensors(tensors)
    errors: dict[str, Mapping[str, float]] = {}
    costs: dict[str, Cost] = {}
    with ExitStack() as stack:

        @functools.cache
        def prober() -> Prober:
            ready()
            return stack.enter_context(closing(Prober(corpus, n_chunks)))

        for index, tensor in enumerate(tensors):
            on_progress(Progress(index, len(tensors), "tensors", tensor.name))
            subject, names = Subject(tensor, evidence), candidates(tensor)
            errors[tensor.name] = remember(f"errors {tensor.name}", subject.relative_errors, names)
            if tensor.name in probed:
                keys = {name: f"probe {tensor.name} {name} {n_chunks}" for name in probe_types(names)}
                probes = [Probe(*remember(key, subject.probe, prober, name)) for name, key in keys.items()]
                costs[tensor.name] = fit_cost(probes)
    return {t.name: Sensitivity(errors[t.name], *_cost_of(t, costs)) for t in tensors}


def tried_tensors(model: Model) -> list[ModelTensor]:
    """Tensors whose type is chosen: all that may be quantized and divide into blocks."""
    return [t for t in model.tensors if kept_reason(t) is None and t.n_per_row % 32 == 0]


def candidates(tensor: ModelTensor) -> tuple[str, ...]:
    """Types that a tensor may get, coarsest first: k-quants where rows divide into 256, else blocks of 32."""
    fit = [name for name in TYPES if has_grid(name) and tensor.n_per_row % quant.quant_type(name).block_size == 0]
    if any(name.endswith("_K") for name in fit):
        fit = [name for name in fit if name.endswith("_K") or name in ("IQ4_XS", "Q8_0")]
    return tuple(sorted(fit, key=lambda name: quant.quant_type(name).bpw))


def probe_types(names: Sequence[str]) -> tuple[str, ...]:
    """The coarsest type, one in the middle, and one that is nearly fine."""
    picked = (names[0], names[len(names) // 2], names[-2] if len(names) > 1 else names[0])
    return tuple(dict.fromkeys(picked))


def probed_tensors(tensors: Sequence[ModelTensor]) -> frozenset[str]:
    """Names of the tensors outside the layers, and of those in a few layers: both ends and evenly in between."""
    layers = sorted({layer_of(t.name) for t in tensors if layer_of(t.name) >= 0})
    if len(layers) > MAX_PROBED_LAYERS:
        inner = np.linspace(1, len(layers) - 1, MAX_PROBED_LAYERS - 1).round().astype(int)
        layers = [layers[0], *(layers[i] for i in inner)]
    return frozenset(t.name for t in tensors if layer_of(t.name) in (-1, *layers))


class Subject:
    """One tensor with what is known of its inputs; nothing is of embeddings that are only looked up."""

    def __init__(self, tensor: ModelTensor, evidence: Evidence) -> None:
        self.tensor, self._evidence = tensor, evidence

    @property
    def _shares(self) -> F64Array:
        """(n_expert,) part of the tokens that each expert saw."""
        moments = self._evidence.of(self.tensor.name)
        return np.ones(self.tensor.n_expert) if moments is None else moments.shares()

    def relative_errors(self, names: Sequence[str]) -> dict[str, float]:
        """r of each type, from a sample of rows."""
        lost, all_ = dict.fromkeys(names, 0.0), 0.0
        for expert in range(self.tensor.n_expert):
            w = sample_rows(self.tensor, expert)
            all_ += self._energy(expert, w)
            for name in names:
                blocks = self._encode(expert, w, name, TABLE_REFINE)
                lost[name] += self._energy(expert, quant.dequantize(blocks, quant.quant_type(name)) - w)
        return {name: value / max(all_, 1e-30) for name, value in lost.items()}

    def probe(self, prober: "Callable[[], Prober]", type_name: str) -> "Probe":
        """What the model loses when this tensor alone is stored in that type."""
        tried, lost, all_ = Tried(self.tensor, type_name), 0.0, 0.0
        for expert in range(self.tensor.n_expert):
            w = self.tensor.rows(expert, 0, self.tensor.n_rows)
            tried.blocks.append(self._encode(expert, w, type_name, 0))
            lost += self._energy(expert, tried[expert])
            all_ += self._energy(expert, w)
        return Probe(lost / max(all_, 1e-30), *prober().kld({self.tensor.name: tried}))

    def _encode(self, expert: int, w: F32Array, type_name: str, n_refine: int) -> NDArray[np.uint8]:
        """Rows `w` of one expert as the final file would hold them in that type."""
        qtype, known = quant.quant_type(type_name), self._evidence.of_expert(self.tensor.name, expert)
        if known is None or not fits(qtype, known):
            return quant.quantize(w, qtype)
        return feedback.encode(w, qtype, known.curve, n_refine=n_refine)

    def _energy(self, expert: int, rows: F32Array) -> float:
        """Output energy of the rows on held-out text, times the expert's share of the tokens."""
        known = self._evidence.of_expert(self.tensor.name, expert)
        if known is None:
            return float(np.square(rows).sum())
        width = known.held_out.shape[1]
        parts = (np.ascontiguousarray(rows[:, b * width : (b + 1) * width]) for b in range(len(known.held_out)))
        total = sum(
            float(np.vdot(feedback.product(part, h), part)) for part, h in zip(parts, known.held_out, strict=True)
        )
        return float(self._shares[expert]) * total


class Tried:
    """Stored rows minus the tensor's own, by expert (n_rows, n_per_row); kept as blocks, for memory's sake."""

    def __init__(self, tensor: ModelTensor, type_name: str) -> None:
        self._tensor, self._qtype = tensor, quant.quant_type(type_name)
        self.blocks: list[NDArray[np.uint8]] = []

    def __getitem__(self, expert: int) -> F32Array:
        difference = quant.dequantize(self.blocks[expert], self._qtype)
        difference -= self._tensor.rows(expert, 0, self._tensor.n_rows)
        return difference


def sample_rows(tensor: ModelTensor, expert: int) -> F32Array:
    """At most SAMPLE_ROWS rows of one expert in evenly spread runs of eight."""
    if tensor.n_rows <= SAMPLE_ROWS:
        return tensor.rows(expert, 0, tensor.n_rows)
    starts = np.linspace(0, tensor.n_rows - 8, SAMPLE_ROWS // 8).astype(int)
    return np.concatenate([tensor.rows(expert, int(s), int(s) + 8) for s in starts])


class Probe(NamedTuple):
    """Relative error of what was tried, the mean divergence it gave, and one standard error of that."""

    r: float
    kld: float
    error: float


def fit_cost(probes: Sequence[Probe]) -> Cost:
    """a, b ≥ 0 of least squares, each probe weighed by its standard error (and by a tenth of its value, for the model
    is rough)."""
    r = np.array([probe.r for probe in probes])
    kld = np.array([max(probe.kld, 0.0) for probe in probes])
    sigma = np.array([np.hypot(probe.error, 0.1 * probe.kld) + 1e-7 for probe in probes])
    columns = np.stack([r, np.sqrt(r)], axis=1) / sigma[:, None]
    best: tuple[float, Cost] | None = None
    for active in ((0, 1), (0,), (1,)):
        part = columns[:, list(active)]
        solved, *_ = np.linalg.lstsq(part, kld / sigma, rcond=None)
        if (solved < 0).any():
            continue
        rest = float(np.square(part @ solved - kld / sigma).sum())
        if best is None or rest < best[0] - 1e-12:
            values = dict(zip(active, solved, strict=True))
            best = (rest, Cost(float(values.get(0, 0.0)), float(values.get(1, 0.0))))
    return best[1] if best else Cost(0.0, 0.0)


def _cost_of(tensor: ModelTensor, costs: Mapping[str, Cost]) -> Cost:
    own = costs.get(tensor.name)
    if own is not None:
        return own
    role, layer = role_of(tensor.name), layer_of(tensor.name)
    same = [name for name in costs if layer_of(name) >= 0 and (role_of(name) is role) and role is not Role.OTHER]
    if not same:
        return max(
            costs.values(), key=lambda cost: 0.01 * cost.quadratic + 0.1 * cost.tipping
        )  # unknown: as careful as the most sensitive one
    return costs[min(same, key=lambda name: (abs(layer_of(name) - layer), layer_of(name)))]


class Prober:
    """The model as it is, and its divergence with some weights changed, on a few chunks of the text."""

    def __init__(self, corpus: Corpus, n_chunks: int) -> None:
        self._patch = WeightPatch(load())
        n_rows = GROUP_CHUNKS * corpus.n_ctx
        self._engine = Engine.open(
            corpus.model, n_ctx=corpus.n_ctx, n_seq=GROUP_CHUNKS, n_batch=n_rows, n_outputs=n_rows,
            threads=corpus.threads, device=Device.CPU, eval_callback=self._patch.callback,
        )  # fmt: skip
        try:
            chunks = text_chunks(
                self._engine.vocab, corpus.text, corpus.n_ctx, n_tokens=n_chunks * corpus.n_ctx, spread=True
            )
            if len(chunks) < min(n_chunks, 4):
                raise InputError(
                    f"the calibration text has {len(chunks)} chunks of {corpus.n_ctx} tokens, choosing types needs at "
                    "least 4. Pass more --text."
                )
            self._groups = [chunks[i : i + GROUP_CHUNKS] for i in range(0, len(chunks), GROUP_CHUNKS)]
            self._base = list(self._logits())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._engine.close()

    def kld(self, differences: Mapping[str, Differences]) -> tuple[float, float]:
        """Mean divergence from the unchanged model, nats a token, and one standard error over groups of chunks.

        differences  by tensor name, other weights minus the model's: (n_rows, n_per_row) of each expert
        """
        self._patch.differences = differences
        try:
            pairs = zip(self._base, self._logits(), strict=True)
            means = np.array([_mean_kld(base, now) for base, now in pairs])
        finally:
            self._patch.differences = {}
        return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 0.0

    def _logits(self) -> Iterator[F32Array]:
        """Logits of the second half of each chunk, (n_chunks · n_ctx / 2, n_vocab) for every group."""
        for group in self._groups:
            n, n_ctx = group.shape
            positions = np.tile(np.arange(n_ctx, dtype=np.int32), n)
            self._engine.clear()
            wanted = positions >= n_ctx // 2
            self._engine.decode(group.reshape(-1), positions, seq=np.repeat(np.arange(n), n_ctx), logits=wanted)
            self._patch.reraise()
            yield self._engine.logits(int(wanted.sum())).copy()


def _mean_kld(base: F32Array, now: F32Array) -> float:
    return float(logits.compare(base, now, np.zeros(len(base), dtype=np.int64)).kld.mean())
