"""A plan as text: layers folded into ranges, one line for tensors that share type and reason."""

from ggufkit.formats.printable import cleaned
from ggufkit.reports.fold import fold
from ggufkit.reports.units import human_bytes, human_count
from ggufkit.workflows.plan import Fit, PlanReport, PlanRow


def render(report: PlanReport) -> str:
    """The result for people."""
    report = cleaned(report)
    blocks = ["\n".join(tensor_lines(report.tensors)), _file_lines(report), _fit_lines(report)]
    if report.notes:
        blocks.append("\n".join(f"note: {note}" for note in report.notes))
    return "\n\n".join(blocks)


def tensor_lines(rows: tuple[PlanRow, ...]) -> list[str]:
    """One line for each group of tensors that differ in their layer only; in the order of the file."""
    groups = fold((row.name, (row.shape, row.type, row.reason)) for row in rows)
    cells = [("tensor", "shape", "type", "size", "why")]
    for group in groups:
        first = rows[group.members[0]]
        nbytes = sum(rows[at].nbytes for at in group.members)
        cells.append((group.name, _shape(first.shape), first.type, human_bytes(nbytes), first.reason))
    name, shape, kind, size, _ = (max(len(cell[at]) for cell in cells) for at in range(5))
    return [f"{c[0]:{name}}  {c[1]:>{shape}}  {c[2]:{kind}}  {c[3]:>{size}}  {c[4]}" for c in cells]


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
        f"with {report.threads} {'thread' if report.threads == 1 else 'threads'}"
    )


def _fit_lines(report: PlanReport) -> str:
    fit = report.fit
    needs = ", ".join(f"{human_bytes(nbytes)} at {n_ctx} tokens" for n_ctx, nbytes in fit.needs.items())
    return f"to run it: {needs or 'unknown, the source tells no context length'}\n{_verdict(fit)}"


def _verdict(fit: Fit) -> str:
    here = f"this machine ({human_bytes(fit.memory_nbytes)}, a tenth left to others)"
    if fit.largest_ctx == 0:
        return f"It does not fit {here}. Choose a smaller type, or a larger machine."
    if not fit.n_ctx_train:
        return f"It fits {here} with up to {fit.largest_ctx} tokens of context."
    if fit.largest_ctx >= fit.n_ctx_train:
        return f"It fits {here} at its full context of {fit.largest_ctx} tokens."
    return f"It fits {here} with up to {fit.largest_ctx} of its {fit.n_ctx_train} tokens of context."
