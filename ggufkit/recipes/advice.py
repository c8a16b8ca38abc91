"""What to say of a plan whose types did not fit: how many tensors, why, and which mixture would fit better."""

from collections import Counter
from collections.abc import Container

from ggufkit.formats.model import Model
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.plan import QuantPlan
from quant import quant_type

# Mixtures in blocks of 32, which divide nearly all rows.
_IN_BLOCKS_OF_32 = ("IQ4_NL", "Q5_0", "Q5_1")
_MANY = 0.1  # of the weights: below it the file is what was asked for
_WORTHWHILE = 0.1  # bits a weight that another mixture must save
_MOST_WIDTHS = 3


def fallback_note(model: Model, plan: QuantPlan, importance: Container[str] | None) -> str:
    """The sentence; empty where every tensor has the type that the mixture wants."""
    moved = [t for t in plan.tensors if t.wanted]
    if not moved:
        return ""
    pairs = Counter((t.wanted, t.qtype.name) for t in moved)
    widths = sorted({t.tensor.n_per_row for t in moved})
    columns = ", ".join(map(str, widths[:_MOST_WIDTHS])) + (", …" if len(widths) > _MOST_WIDTHS else "")
    blocks = " or ".join(str(size) for size in sorted({quant_type(t.wanted).block_size for t in moved}))
    types = ", ".join(f"{got} for {wanted} ({n})" for (wanted, got), n in pairs.most_common())
    fall = "falls" if len(moved) == 1 else "fall"
    said = (
        f"{len(moved)} of {len(plan.tensors)} tensors {fall} back to another type, because rows of {columns} do not "
        f"divide into blocks of {blocks}: {types}"
    )
    share = sum(t.tensor.n_weights for t in moved) / plan.n_weights
    better = _better(model, plan, importance) if share > _MANY else ""
    return f"{said}. {better}" if better else said


def _better(model: Model, plan: QuantPlan, importance: Container[str] | None) -> str:
    """What that costs, and the mixture in small blocks that comes closest to the bits that were asked for."""
    wanted = 8 * sum(_wanted_nbytes(t.tensor.n_weights, t.wanted) if t.wanted else t.nbytes for t in plan.tensors)
    wanted_bpw = wanted / plan.n_weights
    said = f"With its own types {plan.name} would have {wanted_bpw:.2f} bits a weight, so it has {plan.bpw:.2f}"
    others = [make_plan(model, name, importance=importance) for name in _IN_BLOCKS_OF_32]
    smaller = [other for other in others if other.bpw < plan.bpw - _WORTHWHILE]
    if any(t.wanted and t.qtype.name == "Q4_0" for t in plan.tensors):  # as large as IQ4_NL, and farther off
        smaller = others[:1]
    if not smaller:
        return f"{said}."
    best = min(smaller, key=lambda other: abs(other.bpw - wanted_bpw))
    return f"{said}; --type {best.name} has {best.bpw:.2f}, and --target-bpw chooses among the types that fit."


def _wanted_nbytes(n_weights: int, type_name: str) -> float:
    return n_weights * quant_type(type_name).bpw / 8
