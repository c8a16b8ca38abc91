"""A finished quantization as text and as JSON. Knows its figures; does not know how they came about."""

from typing import Any

from ggufkit.recipes.plan import QuantPlan
from ggufkit.reports.units import human_bytes, human_count, human_seconds

SCHEMA = "ggufkit/quantize@1"


def as_dict(
    plan: QuantPlan, *, output: str, seconds: float, resumed_nbytes: int, source_nbytes: int, notes: tuple[str, ...]
) -> dict[str, Any]:
    """The result for machines."""
    types: dict[str, int] = {}
    for tensor in plan.tensors:
        types[tensor.qtype.name] = types.get(tensor.qtype.name, 0) + tensor.nbytes
    return {
        "schema": SCHEMA,
        "output": output,
        "type": plan.name,
        "file_nbytes": plan.file_nbytes,
        "source_nbytes": source_nbytes,
        "bpw": round(plan.bpw, 4),
        "n_weights": plan.n_weights,
        "n_tensors": len(plan.tensors),
        "nbytes_by_type": dict(sorted(types.items(), key=lambda item: -item[1])),
        "seconds": round(seconds, 3),
        "resumed_nbytes": resumed_nbytes,
        "notes": list(notes),
    }


def render(result: dict[str, Any]) -> str:
    """The result for people: a line of what was made, a line of what it is made of, and what to know."""
    size, source = result["file_nbytes"], result["source_nbytes"]
    lines = [
        f"{result['output']}  {result['type']}, {human_bytes(size)}, {result['bpw']:.2f} bits a weight, "
        f"{source / size:.1f} times smaller than the source ({human_bytes(source)})",
        f"{human_count(result['n_weights'])} weights in {result['n_tensors']} tensors, "
        f"{human_seconds(result['seconds'])}"
        + (f", {human_bytes(result['resumed_nbytes'])} kept from before" if result["resumed_nbytes"] else ""),
        "types: " + ", ".join(f"{name} {human_bytes(n)}" for name, n in result["nbytes_by_type"].items()),
    ]
    return "\n".join(lines + [f"note: {note}" for note in result["notes"]])


def render_check(check: dict[str, Any]) -> str:
    """Perplexity before and after, as a small table and a sentence."""
    change = 100 * (check["ppl_after"] / check["ppl_before"] - 1)
    return (
        f"perplexity  before {check['ppl_before']:.4f} ({check['type_before']})   after {check['ppl_after']:.4f}   "
        f"{change:+.2f} % ± {100 * check['ln_ratio_error']:.2f}   "
        f"({check['text']}, {check['n_chunk']} chunks of {check['n_ctx']})"
    )
