"""An inspected GGUF as text."""

import json

from ggufkit.formats.printable import cleaned
from ggufkit.reports.fold import fold
from ggufkit.reports.units import human_bytes, human_count
from ggufkit.workflows.inspect import InspectReport, MetadataRow, TensorRow

_VALUE_WIDTH = 100


def render(report: InspectReport, *, tensors: bool = True, full: bool = False) -> str:
    """The result for people: a headline, metadata, and tensors with their layers folded (`full`: one a line)."""
    report = cleaned(report)
    blocks = [_headline(report), "\n".join(_metadata_line(key, row, full) for key, row in report.metadata.items())]
    if report.notes:
        blocks.insert(1, "\n".join(f"note: {note}" for note in report.notes))
    if tensors:
        blocks.append("\n".join(_tensor_lines(report.tensors, full)))
    return "\n\n".join(blocks)


def _headline(report: InspectReport) -> str:
    parts = [f"{report.file}", report.arch, report.name, report.type, human_bytes(report.nbytes)]
    types = ", ".join(f"{name} {human_bytes(n)}" for name, n in report.nbytes_by_type.items())
    split = f", {report.n_part} parts" if report.n_part > 1 else ""
    return (
        "  ".join(part for part in parts if part)
        + f"\n{human_count(report.n_weights)} weights in {len(report.tensors)} tensors, "
        f"{report.bpw:.2f} bits a weight, GGUF version {report.version}{split}\ntypes: {types or 'none'}"
    )


def _metadata_line(key: str, row: MetadataRow, full: bool) -> str:
    value = json.dumps(row.value, ensure_ascii=False)
    if row.length is not None and len(row.value) < row.length:
        value = value[:-1] + ", …]"
    if not full and len(value) > _VALUE_WIDTH:
        value = value[:_VALUE_WIDTH] + "…"
    kind = row.type if row.length is None else f"{row.type[:-2]}[{row.length}]"
    return f"{key:44} {kind:16} {value}"


def _tensor_lines(rows: tuple[TensorRow, ...], full: bool) -> list[str]:
    keys = [(row.name, at if full else (row.shape, row.type)) for at, row in enumerate(rows)]
    lines = []
    for group in fold(keys):
        first = rows[group.members[0]]
        shape = " x ".join(map(str, first.shape))
        total = sum(rows[at].nbytes for at in group.members)
        lines.append(f"{group.name:44} {first.type:8} {shape:>24} {human_bytes(total):>12}")
    return lines
