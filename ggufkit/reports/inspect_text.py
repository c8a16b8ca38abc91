"""An inspected GGUF as text."""

import json
from collections.abc import Mapping

from ggufkit.formats.printable import cleaned
from ggufkit.reports.columns import columns
from ggufkit.reports.fold import fold
from ggufkit.reports.units import human_bytes, human_count
from ggufkit.workflows.inspect import InspectReport, MetadataRow, TensorRow

_VALUE_WIDTH = 100
_LEAST_WIDTH = 16  # of a value on a narrow terminal


def render(report: InspectReport, *, tensors: bool = True, full: bool = False, width: int | None = None) -> str:
    """The result for people: a headline, metadata, and tensors with their layers folded (`full`: one a line).

    width  of the terminal, None for a pipe
    """
    report = cleaned(report)
    blocks = [_headline(report)]
    if report.notes:
        blocks.append("\n".join(f"note: {note}" for note in report.notes))
    blocks.append(_metadata(report.metadata, full, width))
    if tensors:
        blocks.append(_tensors(report.tensors, full, width))
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


def _metadata(metadata: Mapping[str, MetadataRow], full: bool, width: int | None) -> str:
    """A line an entry; values are cut where the line ends."""
    rows = [(key, _kind(row), _value(row)) for key, row in metadata.items()]
    taken = sum(max((len(row[i]) for row in rows), default=0) + 2 for i in (0, 1))
    room = _VALUE_WIDTH if width is None else max(_LEAST_WIDTH, width - taken)
    if not full:
        rows = [(key, kind, value if len(value) <= room else value[: room - 1] + "…") for key, kind, value in rows]
    return columns(("", "", ""), rows)


def _kind(row: MetadataRow) -> str:
    return row.type if row.length is None else f"{row.type[:-2]}[{row.length}]"


def _value(row: MetadataRow) -> str:
    value = json.dumps(row.value, ensure_ascii=False)
    return value[:-1] + ", …]" if row.length is not None and len(row.value) < row.length else value


def _tensors(rows: tuple[TensorRow, ...], full: bool, width: int | None) -> str:
    keys = [(row.name, at if full else (row.shape, row.type)) for at, row in enumerate(rows)]
    cells = []
    for group in fold(keys):
        first = rows[group.members[0]]
        total = sum(rows[at].nbytes for at in group.members)
        cells.append((group.name, first.type, " x ".join(map(str, first.shape)), human_bytes(total)))
    return columns(("", "", "", ""), cells, right=(2, 3), soft={0: ",."}, width=width)
