"""A baseline file that was made, in a line."""

from ggufkit.formats.printable import cleaned
from ggufkit.reports.units import human_bytes, human_seconds
from ggufkit.workflows.baseline import BaselineReport


def render(report: BaselineReport) -> str:
    """The result for people."""
    report = cleaned(report)
    return (
        f"{report.output}  {human_bytes(report.nbytes)}, {report.llama_nbytes / report.nbytes:.0f} times smaller than "
        f"stored logits; {report.n_chunk} chunks of {report.n_ctx} of {report.text}, {human_seconds(report.seconds)}"
    )
