"""What each tensor costs at each type, in nats of KL divergence: no probe, one encoding of a sample of rows.

For small errors ΔW of a matrix, with x_t and g_t the input and the gradient of the product of token t,

    D  =  ½ Σ_t (g_tᵀ ΔW x_t)² / n   ≈   ½ · mean |g|² · n_slot · Σ_experts share · Σ_rows ρ_i Δw_i H Δw_iᵀ

H are the moments of held-out tokens, each counted for what its gradient weighs, ρ_i row i's share of the squared
gradient: errors of different rows are as often of one sign as of the other. An embedding whose rows are looked up costs
½ · mean |g|² · |Δw|² / n_embd besides.

Knows models, evidence and types. Does not choose.
"""

import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.fitting.encoders import fits
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.token_weights import Stiffness
from ggufkit.formats.model import Model, ModelTensor
from ggufkit.progress import OnProgress, Progress, ignore
from ggufkit.recipes.quantizable import kept_reason
from ggufkit.recipes.search import Sensitivity
from ggufkit.runtime.tape import looked_up
from quant import feedback
from quant.grid import has_grid

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]

TYPES = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q8_0")
SAMPLE_ROWS = 64  # of each expert, evenly spread, and as many of those that count most
TABLE_REFINE = 2


def measure_costs(model: Model, evidence: Evidence, on_progress: OnProgress = ignore) -> dict[str, Sensitivity]:
    """Costs of every tensor that may be quantized, by name in the model's order.

    Raises InputError for a text without enough chunks, EngineError where the model does not run on the CPU.
    """
    tensors, remember = tried_tensors(model), evidence.notebook.remember
    out = {}
    for index, tensor in enumerate(sorted(tensors, key=lambda tensor: evidence.place(tensor.name))):
        on_progress(Progress(index, len(tensors), "tensors", tensor.name))
        errors, nats = remember(f"costs {tensor.name}", Subject(tensor, evidence).costs)
        out[tensor.name] = Sensitivity(errors, nats)
    return {tensor.name: out[tensor.name] for tensor in tensors}


def tried_tensors(model: Model) -> list[ModelTensor]:
    """Tensors whose type is chosen: all that may be quantized and divide into blocks."""
    return [t for t in model.tensors if kept_reason(t) is None and t.n_per_row % 32 == 0]


def candidates(tensor: ModelTensor) -> tuple[str, ...]:
    """Types that a tensor may get, coarsest first: k-quants where rows divide into 256, else blocks of 32."""
    fit = [name for name in TYPES if has_grid(name) and tensor.n_per_row % quant.quant_type(name).block_size == 0]
    if any(name.endswith("_K") for name in fit):
        fit = [name for name in fit if name.endswith("_K") or name in ("IQ4_XS", "Q8_0")]
    return tuple(sorted(fit, key=lambda name: quant.quant_type(name).bpw))


class Subject:
    """One tensor with what is known of its inputs; nothing is of embeddings that are only looked up."""

    def __init__(self, tensor: ModelTensor, evidence: Evidence) -> None:
        self.tensor, self._evidence = tensor, evidence

    def costs(self) -> tuple[dict[str, float], float]:
        """Relative error of each type, from a sample of rows, and the nats that an error of all of it would cost."""
        names = candidates(self.tensor)
        lost, all_ = dict.fromkeys(names, 0.0), 0.0
        for expert in range(self.tensor.n_expert):
            at = self._sampled()
            w = _rows_at(self.tensor, expert, at)
            all_ += self._cost(expert, at, w)
            for name in names:
                blocks = self.encoded(expert, w, name, TABLE_REFINE)
                lost[name] += self._cost(expert, at, quant.dequantize(blocks, quant.quant_type(name)) - w)
        return {name: value / max(all_, 1e-30) for name, value in lost.items()}, all_

    def encoded(self, expert: int, w: F32Array, type_name: str, n_refine: int) -> NDArray[np.uint8]:
        """Rows `w` of one expert as the final file would hold them in that type."""
        qtype, known = quant.quant_type(type_name), self._evidence.of_expert(self.tensor.name, expert)
        if known is None or not fits(qtype, known.curve.width):
            return quant.quantize(w, qtype)
        return feedback.encode(w, qtype, known.curve, n_refine=n_refine)

    @property
    def _shares(self) -> F64Array:
        """(n_expert,) part of the tokens that each expert saw, each for what it counts."""
        moments = self._evidence.of(self.tensor.name)
        shares: F64Array = np.ones(self.tensor.n_expert) if moments is None else moments.shares()
        return shares

    def _stiffness(self, name: str) -> Stiffness | None:
        self._evidence.of(self.tensor.name)  # tokens are weighed before the first reading
        weights = self._evidence.weights
        return None if weights is None else weights.by_name.get(name)

    def _sampled(self) -> NDArray[np.int64]:
        """Rows that stand for all: some in evenly spread runs, and those that the predictions answer to most."""
        n_rows, product = self.tensor.n_rows, self._stiffness(self.tensor.name)
        if n_rows <= 2 * SAMPLE_ROWS:
            return np.arange(n_rows)
        starts = np.linspace(0, n_rows - 8, SAMPLE_ROWS // 8).astype(int)
        rows = (starts[:, None] + np.arange(8)).reshape(-1)
        if product is not None:
            rows = np.concatenate([rows, np.argsort(-product.rows, kind="stable")[:SAMPLE_ROWS]])
        return np.unique(rows)

    def _cost(self, expert: int, at: NDArray[np.int64], error: F32Array) -> float:
        """Nats that the errors of the sampled rows `at` of one expert stand for."""
        product, lookup = self._stiffness(self.tensor.name), self._stiffness(looked_up(self.tensor.name))
        if product is None and lookup is None:
            return float(np.square(error).mean())
        total = 0.0
        if product is not None:
            rho = product.rows[at]
            each = float(rho @ self._energies(expert, error) / max(float(rho.sum()), 1e-30))
            total += 0.5 * product.mean * product.weights.shape[2] * float(self._shares[expert]) * each
        if lookup is not None:
            total += 0.5 * lookup.mean * float(np.square(error).mean())
        return total

    def _energies(self, expert: int, rows: F32Array) -> F64Array:
        """Output energy of each row on held-out text, (n,)."""
        known = self._evidence.of_expert(self.tensor.name, expert)
        if known is not None:
            return feedback.energies(rows, known.held_out)
        squares: F64Array = np.square(rows, dtype=np.float64).sum(axis=1)
        return squares


def _rows_at(tensor: ModelTensor, expert: int, at: NDArray[np.int64]) -> F32Array:
    """Rows `at`, ascending, of one expert, read in runs."""
    runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)
    return np.concatenate([tensor.rows(expert, int(run[0]), int(run[-1]) + 1) for run in runs])
