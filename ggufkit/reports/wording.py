"""Numbers and verdicts of results in words: how each figure is called, in which unit and with how many digits.

Does not know layouts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ggufkit.formats.printable import printable
from ggufkit.proof.facts import ModelFacts, TextFacts
from ggufkit.proof.figures import FigureRow
from ggufkit.proof.trial import Check
from ggufkit.reports.units import human_bytes


class Wording(NamedTuple):
    """`factor` 100 for percentages."""

    title: str
    factor: float = 1.0
    digits: int = 5
    unit: str = ""


FIGURES = {
    "ppl_base": Wording("perplexity, original", digits=4),
    "ppl": Wording("perplexity, candidate", digits=4),
    "ln_ppl_ratio": Wording("ln(candidate / original)", digits=5),
    "kld_mean": Wording("KL divergence, mean", digits=6),
    "kld_median": Wording("KL divergence, median", digits=6),
    "kld_p90": Wording("KL divergence, 90 %", digits=5),
    "kld_p95": Wording("KL divergence, 95 %", digits=5),
    "kld_p99": Wording("KL divergence, 99 %", digits=4),
    "kld_p999": Wording("KL divergence, 99.9 %", digits=4),
    "kld_max": Wording("KL divergence, largest", digits=4),
    "same_top": Wording("same likeliest token", 100.0, 2, " %"),
    "dp_mean": Wording("mean Δp of the text's tokens", 100.0, 3, " %"),
    "dp_rms": Wording("RMS Δp of the text's tokens", 100.0, 3, " %"),
}
CHECK_FORMATS = {
    "nbytes": Wording("", digits=0),
    "bpw": Wording("", digits=2),
    "same_top": FIGURES["same_top"],
    "dp_rms": FIGURES["dp_rms"],
    **{name: Wording("", 100.0, 3, " %") for name in ("kld_p90", "kld_p95", "kld_p99", "kld_p999")},
}
_PLAIN = Wording("", digits=4)

MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}


class FigureLine(NamedTuple):
    """A figure ready to be set."""

    name: str
    title: str
    value: str
    interval: str


class CheckLine(NamedTuple):
    """A check ready to be set; empty where it has no numbers."""

    outcome: str
    title: str
    value: str
    interval: str
    limit: str
    chunks: str
    message: str


def figure_lines(figures: Mapping[str, FigureRow]) -> Iterator[FigureLine]:
    """All figures that are known, in their order. Extremes have no interval."""
    for name, wording in FIGURES.items():
        row = figures.get(name)
        if row:
            is_unknown = row.low is None and row.high is None
            interval = "too few chunks" if is_unknown else _interval(row.low, row.high, wording)
            interval = "" if name == "kld_max" else interval
            yield FigureLine(name, wording.title, number(row.value, wording), interval)


def check_lines(checks: Sequence[Check]) -> Iterator[CheckLine]:
    for check in checks:
        wording = CHECK_FORMATS.get(check.name, _PLAIN)
        has_limit = check.limit is not None
        sign = "≥" if check.at_least else "≤"
        yield CheckLine(
            outcome=check.outcome,
            title=check.title,
            value=number(check.value, wording) if has_limit else "",
            interval=_interval(check.low, check.high, wording) if has_limit and check.n_chunk else "",
            limit=f"{sign} {number(check.limit, wording)}" if has_limit else "",
            chunks=str(check.n_chunk) if check.n_chunk else "",
            message=check.message,
        )


def number(value: float | None, wording: Wording = _PLAIN) -> str:
    """One number; a dash where there is none."""
    return "–" if value is None else f"{value * wording.factor:.{wording.digits}f}{wording.unit}"


def _interval(low: float | None, high: float | None, wording: Wording) -> str:
    ends = ("−∞" if low is None else f"{low * wording.factor:.{wording.digits}f}",
            "∞" if high is None else f"{high * wording.factor:.{wording.digits}f}")  # fmt: skip
    return f"{ends[0]} … {ends[1]}{wording.unit}"


def model_line(model: ModelFacts) -> str:
    """A model file in one line."""
    parts = [model.type, human_bytes(model.nbytes), f"{model.bpw:.2f} bits a weight"]
    return f"{printable(model.file)} ({', '.join(part for part in parts if part)})"


def text_line(text: TextFacts) -> str:
    """What was read in one line."""
    return f"{printable(text.name)}: {text.n_chunk} chunks of {text.n_ctx}, {text.n_token} tokens scored"
