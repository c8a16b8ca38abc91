"""A finished quantization: what is told of it, as JSON and as text."""

from dataclasses import dataclass, replace

from ggufkit.formats.printable import cleaned
from ggufkit.reports.units import human_bytes, human_count, human_seconds
from ggufkit.workflows.check import BeforeAfter
from ggufkit.workflows.fitted import FitReport
from ggufkit.workflows.quantize import QuantizeReport


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What was made.

    resumed_nbytes  of the output, done by an earlier run
    nbytes_by_type  bytes of tensors of each type, largest first
    check           perplexity before and after, where it was asked for
    """

    output: str
    type: str
    file_nbytes: int
    source_nbytes: int
    bpw: float
    n_weights: int
    n_tensors: int
    nbytes_by_type: dict[str, int]
    seconds: float
    resumed_nbytes: int
    notes: tuple[str, ...]
    check: BeforeAfter | None = None

    @classmethod
    def of(cls, report: QuantizeReport) -> "QuantizeResult":
        """What is told of `report`."""
        plan = report.plan
        return cls(
            output=str(report.output),
            type=plan.name,
            file_nbytes=plan.file_nbytes,
            source_nbytes=report.source_nbytes,
            bpw=plan.bpw,
            n_weights=plan.n_weights,
            n_tensors=len(plan.tensors),
            nbytes_by_type=plan.nbytes_by_type,
            seconds=report.seconds,
            resumed_nbytes=report.resumed_nbytes,
            notes=report.notes,
        )

    def with_more(self, *, notes: tuple[str, ...] = (), check: BeforeAfter | None = None) -> "QuantizeResult":
        """The same with what other steps have to say."""
        return replace(self, notes=self.notes + notes, check=check)


def fit_notes(report: FitReport) -> tuple[str, ...]:
    """Sentences on the fit for the report."""
    lines = list(report.coverage.notes)
    if report.found is not None:
        lines.append(f"types chosen for a predicted KL divergence of {report.found.kld:.2g} nats")
        lines.append(f"the next step: {report.found.buys}")
    if report.rows_plain:
        lines.append(
            f"{report.rows_plain} of {report.rows_fitted + report.rows_plain} rows hold weights that are not finite; "
            "they are searched with importance instead of fitted"
        )
    return tuple(lines)


def render(result: QuantizeResult) -> str:
    """The result for people: a line of what was made, a line of what it is made of, and what to know."""
    result = cleaned(result)
    size, source = result.file_nbytes, result.source_nbytes
    kept = f", {human_bytes(result.resumed_nbytes)} kept from before" if result.resumed_nbytes else ""
    lines = [
        f"{result.output}  {result.type}, {human_bytes(size)}, {result.bpw:.2f} bits a weight, "
        f"{source / size:.1f} times smaller than the source ({human_bytes(source)})",
        f"{human_count(result.n_weights)} weights in {result.n_tensors} tensors, {human_seconds(result.seconds)}{kept}",
        "types: " + ", ".join(f"{name} {human_bytes(n)}" for name, n in result.nbytes_by_type.items()),
        *(f"note: {note}" for note in result.notes),
    ]
    return "\n".join([*lines, _check(result.check)] if result.check else lines)


def _check(check: BeforeAfter) -> str:
    change = 100 * (check.ppl_after / check.ppl_before - 1)
    error = "" if check.ln_ratio_error is None else f" ± {100 * check.ln_ratio_error:.2f}"
    return (
        f"perplexity  before {check.ppl_before:.4f} ({check.type_before})   after {check.ppl_after:.4f}   "
        f"{change:+.2f} %{error}   "
        f"({check.text}, {check.n_chunk} chunks of {check.n_ctx})"
    )
