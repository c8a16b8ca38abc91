"""A diff of two files for people: what differs, and the errors of the tensors with their layers folded."""

from collections.abc import Sequence

from ggufkit.differences.structure import Finding
from ggufkit.differences.weights import TensorError
from ggufkit.formats.printable import cleaned
from ggufkit.reports.columns import columns
from ggufkit.reports.fold import fold
from ggufkit.reports.units import human_seconds
from ggufkit.reports.wording import model_line
from ggufkit.workflows.diff import DiffReport


def render(result: DiffReport, *, full: bool = False, width: int | None = None) -> str:
    """The result of `ggufkit diff`; `full` shows every tensor on a line; `width` of the terminal, None for a pipe."""
    result = cleaned(result)
    head = f"original   {result.base}\ncandidate  {model_line(result.candidate)}, {human_seconds(result.seconds)}"
    blocks = [head, _findings(result.findings)]
    if result.tensors:
        blocks.append(_tensors(result.tensors, full, width))
    return "\n\n".join(blocks)


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return "nothing differs but the encoding of the weights"
    return "\n".join(f"{one.severity}: {one.message}" for one in findings)


def _tensors(tensors: Sequence[TensorError], full: bool, width: int | None) -> str:
    keys = [(one.name, at if full else one.type) for at, one in enumerate(tensors)]
    rows = []
    for group in fold(keys):
        members = [tensors[at] for at in group.members]
        errors = [one.error for one in members if one.error is not None]
        experts = [error for one in members for error in one.experts if error is not None]
        rows.append((
            group.name, members[0].type, _range(errors), _range(experts) if experts else "",
            _range([one.expected for one in members if one.expected is not None]),
        ))  # fmt: skip
    return columns(
        ("tensor", "type", "relative error", "by expert", "expected"),
        rows,
        right=(2, 3, 4),
        soft={0: ",."},
        width=width,
    )


def _range(values: list[float]) -> str:
    if not values:
        return "–"
    low, high = f"{min(values):.4f}", f"{max(values):.4f}"
    return low if low == high else f"{low}–{high}"
