"""A converted adapter as text."""

from ggufkit.formats.printable import cleaned
from ggufkit.reports.units import human_bytes
from ggufkit.workflows.convert_lora import ConvertLoraReport


def render(report: ConvertLoraReport) -> str:
    """The result for people."""
    report = cleaned(report)
    low, high = report.ranks
    rank = f"rank {low}" if low == high else f"ranks {low} to {high}"
    lines = [
        f"{report.output}  {report.arch}  {report.type}  {human_bytes(report.nbytes)}",
        f"{report.n_adapted} weights adapted, {rank}, alpha {report.alpha:g}",
        *(f"note: {note}" for note in report.notes),
        f"run it: ggufkit run MODEL.gguf --lora {report.output}",
    ]
    return "\n".join(lines)
