"""What an effort costs, said before it is spent: walks through the text, memory for moments, time to encode.

Knows shapes and the rates measured on one core (see benchmarks/fidelity.py). Does not measure this machine.
"""

from dataclasses import dataclass

from ggufkit.formats.model import Model
from ggufkit.recipes.quantizable import kept_reason
from ggufkit.workflows.evidence import MAX_WIDTH, moments_nbytes, walks
from ggufkit.workflows.fit import Effort
from quant.covariance import block_width

# Multiply-adds of one row of n columns, in n², as the stages of quant.feedback do them; refinement stops early.
_OPERATIONS = {Effort.FAST: 0.0, Effort.BALANCED: 7.0, Effort.BEST: 17.0}
_RATE = 4e9  # of them a second and core
_PLAIN_RATE = 20e6  # weights a second and core, searched with importance


@dataclass(frozen=True, slots=True)
class EffortCost:
    """`n_walks` readings of the text, `moments_nbytes` at a time, `encode_seconds` to encode on those threads."""

    n_walks: int
    moments_nbytes: int
    encode_seconds: float


def effort_cost(model: Model, effort: Effort, *, threads: int, max_nbytes: int) -> EffortCost:
    """Costs of encoding the whole model. Time to run the model on the text is not included: it is the model's own."""
    tensors = [t for t in model.tensors if kept_reason(t) is None]
    shapes = {t.name: (t.n_expert, t.n_per_row) for t in tensors}
    groups = walks(shapes, max_nbytes)
    operations = sum(
        _OPERATIONS[effort] * t.n_weights * block_width(t.n_per_row, MAX_WIDTH)
        for t in tensors
        if t.n_per_row % 32 == 0
    )
    n_weights = sum(t.n_weights for t in tensors)
    return EffortCost(
        n_walks=len(groups),
        moments_nbytes=max((sum(moments_nbytes(shapes[name]) for name in names) for names in groups), default=0),
        encode_seconds=(operations / _RATE + n_weights / _PLAIN_RATE) / max(1, threads),
    )
