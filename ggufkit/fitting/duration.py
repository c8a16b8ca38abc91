"""How long the steps of a fitted run are thought to take, before anything is measured.

Knows shapes and rates of one core (benchmarks/fitted.py, benchmarks/calibrate.py on this project's machine); another
machine is faster or slower in all steps alike, which `progress.Steps` corrects as the run goes on.
"""

from collections.abc import Mapping

from ggufkit.fitting.corpus import N_CTX, Corpus
from ggufkit.fitting.cost import EffortCost, shapes_of, taped_chunks, taped_tokens
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.sensitivity import SAMPLE_ROWS, tried_tensors
from ggufkit.fitting.walks import MAX_WIDTH, Shape
from ggufkit.formats.model import Model, ModelTensor
from quant.covariance import block_width

QUICK, WEIGHING, CALIBRATION = "quick file", "weighing tokens", "calibration"
TYPES, ENCODING = "types", "encoding"

_MODEL_RATE = 12e9  # multiply-adds a second and core, of a model that reads text
_MOMENTS_RATE = 20e9  # and of sums of outer products
_COPY_RATE = 150e6  # weights a second, read and written
_TABLE_RATE = 4e6  # weights of sampled rows a second and core, encoded at all types that a tensor may get
_GRADIENT_READINGS = 4.0  # there and back takes so much longer than reading: plain kernels, nothing repacked
_CHARS_A_TOKEN = 4.0


def step_seconds(
    model: Model, corpus: Corpus, cost: EffortCost, effort: Effort, *, threads: int, n_probe: int | None, quick: bool
) -> dict[str, float]:
    """Seconds by step, in the order of the run.

    n_probe  chunks that a choice of types is tried on, None where types are given
    quick    whether the model that is run has to be made first
    """
    shapes = shapes_of(model)
    n_tokens = min(corpus.n_tokens or 1 << 60, len(corpus.text) / _CHARS_A_TOKEN)
    reading = _active_weights(model) / _MODEL_RATE / threads
    moments = 0.0 if effort is Effort.FAST else _moments_madds(model, shapes) / _MOMENTS_RATE
    seconds = {QUICK: sum(t.n_weights for t in model.tensors) / _COPY_RATE} if quick else {}
    if effort is not Effort.FAST:
        n_chunk = min(taped_chunks(model), n_tokens / N_CTX)
        seconds[WEIGHING] = n_chunk * taped_tokens(model) * reading * _GRADIENT_READINGS
    seconds[CALIBRATION] = n_tokens * (cost.n_walks * reading + moments)
    if n_probe is not None:
        tried = tried_tensors(model)
        tables = sum(_sampled(t) for t in tried) / _TABLE_RATE
        seconds[TYPES] = tables + 3 * n_probe * N_CTX * reading  # as it is, and with what replaces every weight
    return seconds | {ENCODING: cost.encode_seconds}


def _active_weights(model: Model) -> float:
    """Weights that a token is multiplied with."""
    hparams = model.hparams
    used = hparams.n_expert_used / hparams.n_expert if hparams.n_expert else 1.0
    return sum(t.n_weights * (used if t.n_expert > 1 else 1.0) for t in model.tensors if t.name != "token_embd.weight")


def _moments_madds(model: Model, shapes: Mapping[str, Shape]) -> float:
    """Multiply-adds of one token: upper triangles, of the experts that it goes to."""
    used = max(1, model.hparams.n_expert_used)
    return sum(
        (used if n_expert > 1 else 1) * n_per_row * block_width(n_per_row, MAX_WIDTH) / 2
        for n_expert, n_per_row in shapes.values()
    )


def _sampled(tensor: ModelTensor) -> int:
    """Weights of the rows that stand for a tensor in tables."""
    return tensor.n_expert * min(2 * SAMPLE_ROWS, tensor.n_rows) * tensor.n_per_row
