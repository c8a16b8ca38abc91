"""A measured perplexity, in a line."""

from ggufkit.formats.printable import cleaned
from ggufkit.workflows.perplexity import PerplexityReport


def render(report: PerplexityReport) -> str:
    """The result for people."""
    report = cleaned(report)
    chunks = "chunk" if report.n_chunk == 1 else "chunks"
    error = "" if report.ppl_error_chunk is None else f" ± {report.ppl_error_chunk:.4f}"
    return (
        f"perplexity {report.ppl:.4f}{error}  ({report.file} on {report.text}: "
        f"{report.n_chunk} {chunks} of {report.n_ctx}, {report.n_token} tokens scored, "
        f"{report.tokens_per_second:.0f} tokens/s)"
    )
