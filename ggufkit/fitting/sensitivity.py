"""What each tensor costs at each type, in nats of KL divergence: no probe, one encoding of a sample of rows.

For small errors ΔW of a matrix, with x_t and g_t the input and the gradient of the product of token t,

    D  =  ½ Σ_t (g_tᵀ ΔW x_t)² / n   ≈   ½ · mean |g|² · n_slot · Σ_experts share · Σ_rows ρ_i Δw_i H Δw_iᵀ

H are the moments of held-out tokens, each counted for what its gradient weighs, ρ_i row i's share of the squared
gradient: errors of different rows are as often of one sign as of the other. An embedding whose rows are looked up costs
½ · mean |g|² · |Δw|² / n_embd besides.

Knows models, evidence and types. Does not choose.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.cluster.tasks import Cluster, Task, passed_on
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.moments import ExpertMeans
from ggufkit.fitting.token_weights import Stiffness
from ggufkit.fitting.trial_encoding import Inputs, encoded, type_cost
from ggufkit.formats.model import Model, ModelTensor
from ggufkit.progress import OnProgress, Progress, ignore
from ggufkit.recipes.quantizable import kept_reason
from ggufkit.recipes.search import Sensitivity
from ggufkit.runtime.machine import choose_threads
from ggufkit.runtime.tape import looked_up
from quant import feedback
from quant.grid import has_grid

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]
Costs = tuple[dict[str, float], float]
Each = Callable[..., Iterable[float]]

TYPES = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q8_0")
SAMPLE_ROWS, LEAST_ROWS = 64, 16  # of a tensor, evenly spread, and as many of those that count most; of an expert
RUN_ROWS = 4  # of those that are spread, side by side


def measure_costs(
    model: Model, evidence: Evidence, on_progress: OnProgress = ignore, cluster: Cluster | None = None
) -> dict[str, Sensitivity]:
    """Costs of every tensor that may be quantized, by name in the model's order.

    cluster  whose workers encode the samples; None does it here, to the same figures

    Raises InputError for a text without enough chunks, EngineError where the model does not run on the CPU.
    """
    tensors, remember = tried_tensors(model), evidence.notebook.remember
    out: dict[str, Sensitivity] = {}
    in_turn = sorted(tensors, key=lambda tensor: evidence.place(tensor.name))
    with ThreadPoolExecutor(evidence.source.corpus.threads or choose_threads().n) as pool:
        for _, group in itertools.groupby(in_turn, key=lambda tensor: evidence.place(tensor.name)):
            walk = list(group)
            if cluster is not None:
                _measure_there(cluster, [t for t in walk if not evidence.notebook.knows(_key(t))], evidence)
            for tensor in walk:
                errors, nats = remember(_key(tensor), Subject(tensor, evidence).costs, pool.map)
                out[tensor.name] = Sensitivity(errors, nats)
                on_progress(Progress(len(out), len(tensors), "tensors", tensor.name))  # once its walk was read
    return {tensor.name: out[tensor.name] for tensor in tensors}


def _key(tensor: ModelTensor) -> str:
    return f"costs {tensor.name}"


def _measure_there(cluster: Cluster, tensors: Sequence[ModelTensor], evidence: Evidence) -> None:
    """Have the notebook know these tensors' costs, which workers find out, an expert a task."""
    found: dict[str, dict[int, Costs]] = {tensor.name: {} for tensor in tensors}

    def tasks() -> Iterator[Task]:
        for tensor in tensors:
            for expert in range(tensor.n_expert):
                make = functools.partial(Subject(tensor, evidence).sent, expert)
                inline, handed = passed_on((tensor.name, expert), make, lambda known: known.nbytes)
                yield Task(expert_costs, (tensor, expert, *inline), handed, tag=(tensor, expert))

    def on_result(task: Task, costs: Costs) -> None:
        tensor, expert = task.tag
        found[tensor.name][expert] = costs
        if len(found[tensor.name]) == tensor.n_expert:
            in_order = [found[tensor.name][e] for e in range(tensor.n_expert)]
            evidence.notebook.remember(_key(tensor), _summed, tensor, in_order)

    cluster.run(tasks(), on_result)


def tried_tensors(model: Model) -> list[ModelTensor]:
    """Tensors whose type is chosen: all that may be quantized and divide into blocks."""
    return [t for t in model.tensors if kept_reason(t) is None and t.n_per_row % 32 == 0]


def candidates(tensor: ModelTensor) -> tuple[str, ...]:
    """Types that a tensor may get, coarsest first: k-quants where rows divide into 256, else blocks of 32."""
    fit = [name for name in TYPES if has_grid(name) and tensor.n_per_row % quant.quant_type(name).block_size == 0]
    if any(name.endswith("_K") for name in fit):
        fit = [name for name in fit if name.endswith("_K") or name in ("IQ4_XS", "Q8_0")]
    return tuple(sorted(fit, key=lambda name: quant.quant_type(name).bpw))


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a tensor.

    shares     (n_expert,) part of the tokens that each expert saw, each for what it counts
    product    how much the predictions resist errors of its products, where gradients were taken
    lookup     the same of its rows, where they are looked up
    of_expert  evidence of one expert, None where nothing was seen of its inputs, as of embeddings
    nbytes     that it has to travel, about
    """

    shares: F64Array
    product: Stiffness | None
    lookup: Stiffness | None
    of_expert: Callable[[int], Inputs]
    nbytes: int = 0


class Subject:
    """One tensor with what is known of its inputs."""

    def __init__(self, tensor: ModelTensor, evidence: Evidence) -> None:
        self.tensor, self._evidence = tensor, evidence

    def costs(self, each: Each = map) -> Costs:
        """Relative error of each type, from a sample of rows, and the nats that an error of all of it would cost.

        each  `map`, or that of a pool whose threads share the types
        """
        known, n_expert = self._known(), self.tensor.n_expert
        return _summed(self.tensor, [expert_costs(self.tensor, e, known, each) for e in range(n_expert)])

    def encoded(self, expert: int, w: F32Array, type_name: str, n_refine: int) -> NDArray[np.uint8]:
        """Rows `w` of one expert as the final file would hold them in that type."""
        rows = self._evidence.coupling(self.tensor.name)
        return encoded(w, type_name, self._of_expert(expert), n_refine, rows)

    def sent(self, expert: int) -> Known:
        """What is known of one expert, to be used elsewhere."""
        known, moments = self._known(), self._evidence.of(self.tensor.name)
        means = None if moments is None else moments.means_of(expert)
        return dataclasses.replace(
            known, product=_without_tokens(known.product), lookup=_without_tokens(known.lookup),
            of_expert=_Means(means, self._evidence.fitted), nbytes=0 if means is None else means.nbytes,
        )  # fmt: skip

    def _known(self) -> Known:
        name = self.tensor.name
        moments = self._evidence.of(name)  # tokens are weighed before the first reading
        weights = self._evidence.weights
        by_name = {} if weights is None else weights.by_name
        shares = np.ones(self.tensor.n_expert) if moments is None else moments.shares()
        return Known(shares, by_name.get(name), by_name.get(looked_up(name)), self._of_expert)

    def _of_expert(self, expert: int) -> Inputs:
        if self._evidence.fitted:
            return self._evidence.of_expert(self.tensor.name, expert)
        moments = self._evidence.of(self.tensor.name)
        return None if moments is None else moments.means_of(expert).plain()


class _Means:
    """Evidence of one expert, made where it is used."""

    def __init__(self, means: ExpertMeans | None, fitted: bool) -> None:
        self._means, self._fitted = means, fitted

    def __call__(self, _: int) -> Inputs:
        return self._made

    @functools.cached_property
    def _made(self) -> Inputs:
        if self._means is None:
            return None
        return self._means.evidence() if self._fitted else self._means.plain()


def _without_tokens(product: Stiffness | None) -> Stiffness | None:
    """The same without what each token counts for, which is large and in the moments already."""
    if product is None:
        return None
    return dataclasses.replace(product, weights=product.weights[:0], chunks=product.chunks[:0])


def expert_costs(tensor: ModelTensor, expert: int, known: Known, each: Each = map) -> Costs:
    """Nats that each type's errors of one expert would cost, and that an error of all of it would. Of any process."""
    at = _sampled(tensor, known.product)
    w = _rows_at(tensor, expert, at)
    evidence = known.of_expert(expert)
    names = candidates(tensor)

    def cost(rows: slice, error: F32Array) -> float:
        return _cost(known, expert, evidence, at[rows], error)

    costs = each(lambda name: type_cost(w, name, evidence, cost), names)
    return dict(zip(names, costs, strict=True)), cost(slice(None), w)


def _summed(tensor: ModelTensor, experts: Sequence[Costs]) -> Costs:
    """Relative error of each type, and the nats of all: of the experts' in their order."""
    lost, all_ = dict.fromkeys(candidates(tensor), 0.0), 0.0
    for errors, one in experts:  # not `sum`, which rounds otherwise from Python 3.12 on
        all_ += one
        for name in lost:
            lost[name] += errors[name]
    return {name: value / max(all_, 1e-30) for name, value in lost.items()}, all_


def sample_rows(tensor: ModelTensor) -> int:
    """Rows of each expert that stand for it; together they are more than those of a tensor without experts."""
    share = max(LEAST_ROWS, 2 * SAMPLE_ROWS // tensor.n_expert)
    return min(tensor.n_rows, 2 * min(SAMPLE_ROWS, share))


def _sampled(tensor: ModelTensor, product: Stiffness | None) -> NDArray[np.int64]:
    """Which: half of them in evenly spread runs, half those that the predictions answer to most."""
    n, half = tensor.n_rows, sample_rows(tensor) // 2
    if n <= 2 * half:
        return np.arange(n)
    starts = np.linspace(0, n - RUN_ROWS, half // RUN_ROWS).astype(int)
    rows = (starts[:, None] + np.arange(RUN_ROWS)).reshape(-1)
    if product is not None:
        rows = np.concatenate([rows, np.argsort(-product.rows, kind="stable")[:half]])
    return np.unique(rows)


def _cost(known: Known, expert: int, evidence: Inputs, at: NDArray[np.int64], error: F32Array) -> float:
    """Nats that the errors of the sampled rows `at` of one expert stand for."""
    product, lookup = known.product, known.lookup
    if product is None and lookup is None:
        return float(np.square(error).mean())
    total = 0.0
    if product is not None:
        rho = product.rows[at]
        each = float(rho @ _energies(evidence, error) / max(float(rho.sum()), 1e-30))
        total += 0.5 * product.mean * product.weights.shape[2] * float(known.shares[expert]) * each
    if lookup is not None:
        total += 0.5 * lookup.mean * float(np.square(error).mean())
    return total


def _energies(evidence: Inputs, rows: F32Array) -> F64Array:
    """Output energy of each row on held-out text, (n,)."""
    if evidence is not None:
        assert evidence.held_out is not None, "costs are judged on text that was not fitted on"
        return feedback.energies(rows, evidence.held_out)
    squares: F64Array = np.square(rows, dtype=np.float64).sum(axis=1)
    return squares


def _rows_at(tensor: ModelTensor, expert: int, at: NDArray[np.int64]) -> F32Array:
    """Rows `at`, ascending, of one expert, read in runs."""
    runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)
    return np.concatenate([tensor.rows(expert, int(run[0]), int(run[-1]) + 1) for run in runs])
