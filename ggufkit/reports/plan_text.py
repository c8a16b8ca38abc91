"""A plan as text: layers folded into ranges, one line for tensors that share type and reason."""

from ggufkit.fitting.keeping import AGAIN
from ggufkit.formats.printable import cleaned
from ggufkit.reports.columns import columns
from ggufkit.reports.fold import fold
from ggufkit.reports.units import human_bytes, human_count, human_seconds
from ggufkit.workflows.plan import FitCost, Headroom, PlanReport, PlanRow


def render(report: PlanReport, width: int | None = None) -> str:
    """The result for people; `width` of their terminal, None for a pipe."""
    report = cleaned(report)
    blocks = [_file_lines(report), _fit_lines(report)]
    if report.notes:
        blocks.append("\n".join(f"note: {note}" for note in report.notes))
    return "\n\n".join([tensor_table(report.tensors, width), *blocks])


def tensor_table(rows: tuple[PlanRow, ...], width: int | None = None) -> str:
    """One row for each group of tensors that differ in their layer only; in the order of the file."""
    groups = fold((row.name, (row.shape, row.type, row.reason)) for row in rows)
    cells = []
    for group in groups:
        first = rows[group.members[0]]
        nbytes = sum(rows[at].nbytes for at in group.members)
        cells.append((group.name, _shape(first.shape), first.type, human_bytes(nbytes), first.reason))
    header = ("tensor", "shape", "type", "size", "why")
    return columns(header, cells, right=(1, 3), soft={0: ",.", 4: " "}, width=width)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _file_lines(report: PlanReport) -> str:
    types = ", ".join(f"{name} {human_bytes(nbytes)}" for name, nbytes in report.nbytes_by_type.items())
    return (
        f"{report.type}: {human_bytes(report.file_nbytes)}, {report.bpw:.3f} bits a weight, "
        f"{human_count(report.n_weights)} weights in {len(report.tensors)} tensors; "
        f"the source holds {human_bytes(report.source_nbytes)}\n"
        f"types: {types}\n"
        f"to make it: {human_bytes(report.disk_nbytes)} of disk, {human_bytes(report.peak_nbytes)} of memory "
        f"with {report.threads} {'thread' if report.threads == 1 else 'threads'}{_fitting_line(report.fitting)}"
    )


def _fitting_line(cost: FitCost | None) -> str:
    if cost is None:
        return ""
    lacking = said_to_lack(cost)
    return f"\nto fit it: {said(cost)}" + (f"\nnote: {lacking}" if lacking else "")


def said(cost: FitCost) -> str:
    """What calibrating and fitting take, in a line."""
    steps = ", ".join(f"{name} {human_seconds(seconds)}" for name, seconds in cost.seconds.items())
    way = ["layer by layer"] if cost.by_layer else []
    way += [f"{cost.n_readings} readings of the text"] if cost.n_readings > 1 else []
    readings = f" ({', '.join(way)})" if way else ""
    by = "by what a layer takes here" if cost.are_measured else "assumed, not measured here"
    mapped = f" besides {human_bytes(cost.mapped_nbytes)} of weights that are mapped" if cost.mapped_nbytes else ""
    disk = f", {human_bytes(cost.disk_nbytes)} of disk on the way" if cost.disk_nbytes else ""
    disk += f", {human_bytes(cost.kept_nbytes)} of it moments that are kept" if cost.kept_nbytes else ""
    return (
        f"effort {cost.effort}: about {human_seconds(sum(cost.seconds.values()))} in all ({by}): {steps}{readings}; "
        f"{human_bytes(cost.memory_nbytes)} of memory{mapped}{disk}"
    )


def said_to_lack(cost: FitCost) -> str:
    """A line where the disk has no room for all moments that would be kept, else nothing."""
    if not cost.again_nbytes:
        return ""
    lacking = f"{cost.kept_in} has no room for {human_bytes(cost.again_nbytes)} of moments"
    if not cost.again_seconds:
        return f"{lacking}: the next file has to gather them anew"
    again = human_seconds(cost.again_seconds)
    if AGAIN in cost.seconds:
        return f"{lacking} until types are known: they are gathered twice, {again} of that time"
    return f"{lacking} until types are known: for an output there they are gathered twice, which takes {again} more"


def _fit_lines(report: PlanReport) -> str:
    fit = report.fit
    needs = ", ".join(f"{human_bytes(nbytes)} at {n_ctx} tokens" for n_ctx, nbytes in fit.needs.items())
    return f"to run it: {needs or 'unknown, the source does not state a context length'}\n{_verdict(fit)}"


def _verdict(fit: Headroom) -> str:
    here = f"this machine ({human_bytes(fit.memory_nbytes)}, a tenth left to others)"
    if fit.largest_ctx == 0:
        return f"It does not fit {here}. Choose a smaller type, or a larger machine."
    if not fit.n_ctx_train:
        return f"It fits {here} with up to {fit.largest_ctx} tokens of context."
    if fit.largest_ctx >= fit.n_ctx_train:
        return f"It fits {here} at its full context of {fit.largest_ctx} tokens."
    return f"It fits {here} with up to {fit.largest_ctx} of its {fit.n_ctx_train} tokens of context."
