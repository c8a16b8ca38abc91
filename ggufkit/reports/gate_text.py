"""A gate's result for people: the verdict, a line a check, the figures behind it."""

from ggufkit.formats.printable import cleaned
from ggufkit.proof.comparison import Comparison
from ggufkit.reports.columns import columns
from ggufkit.reports.compare_text import figures_table
from ggufkit.reports.units import human_seconds
from ggufkit.reports.wording import MARKS, CheckLine, check_lines, model_line, text_line
from ggufkit.workflows.gate import GateResult


def render(result: GateResult, width: int | None = None) -> str:
    """The result of `ggufkit gate`; `width` of the terminal, None for a pipe."""
    result = cleaned(result)
    lines = list(check_lines(result.checks))
    blocks = [
        f"{result.verdict.upper()}  {result.sentence}",
        columns(
            ("", "check", "value", "surely within", "limit", "chunks"), [_row(line) for line in lines],
            right=(2, 4, 5), soft={1: " ", 3: " "}, width=width,
        ),
    ]  # fmt: skip
    said = [f"{MARKS[line.outcome]} {line.title}: {line.message}" for line in lines if line.outcome != "pass"]
    blocks += ["\n".join(said)] if said else []
    comparison = result.comparison
    if comparison:
        blocks += [figures_table(comparison, width), _about(result, comparison)]
        blocks += [f"note: {notice}" for notice in comparison.notices]
    return "\n\n".join(blocks)


def _row(line: CheckLine) -> tuple[str, ...]:
    return MARKS[line.outcome], line.title, line.value, line.interval, line.limit, line.chunks


def _about(result: GateResult, comparison: Comparison) -> str:
    return (
        f"original   {model_line(result.base)}\n"
        f"candidate  {model_line(result.candidate)}\n"
        f"text       {text_line(comparison.text)} of {result.n_budget} chunks allowed, seed "
        f"{result.config.seed}, {human_seconds(result.seconds)}"
    )
