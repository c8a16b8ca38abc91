"""A gate's result as Markdown, for the summary of a step on GitHub, which holds 1,024 KiB and drops what is larger."""

import re
from collections.abc import Iterable, Sequence

from ggufkit.formats.printable import cleaned
from ggufkit.proof.comparison import Comparison
from ggufkit.reports.wording import MARKS, check_lines, figure_lines, model_line, text_line
from ggufkit.workflows.gate import GateResult

MAX_NBYTES = 900 << 10
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")
_VERDICTS = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "❔ inconclusive"}


def render(result: GateResult) -> str:
    """Verdict, checks, figures. Cut at a line where it would be too long."""
    result = cleaned(result, lines=True)
    comparison = result.comparison
    parts = [
        f"## {_VERDICTS[result.verdict]}: {escaped(result.candidate.file)}",
        escaped(result.sentence),
        table(
            ("", "check", "value", "surely within", "limit", "chunks", ""),
            [(MARKS[c.outcome], c.title, c.value, c.interval, c.limit, c.chunks, _if_bad(c.outcome, c.message))
             for c in check_lines(result.checks)],
            right=(2, 4, 5),
        ),
    ]  # fmt: skip
    if comparison:
        parts += [_figures(comparison), escaped(f"{text_line(comparison.text)}, seed {result.config.seed}")]
    parts.append(escaped(f"Candidate {model_line(result.candidate)}, original {model_line(result.base)}, "
                         f"ggufkit {result.environment.ggufkit}, {result.environment.engine}"))  # fmt: skip
    return cut("\n\n".join(parts) + "\n")


def _figures(comparison: Comparison) -> str:
    rows = [(line.title, line.value, line.interval) for line in figure_lines(comparison.figures)]
    return table(("figure", "value", "95 % interval"), rows, right=(1,))


def _if_bad(outcome: str, message: str) -> str:
    return "" if outcome == "pass" else message


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """A Markdown table; what stands in cells cannot break out of them."""
    rules = ["---:" if i in right else "---" for i in range(len(header))]
    lines = [header, rules, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escaped(text: str) -> str:
    """`text` as it stands, on one line: no markup of its own, no links, no HTML."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("@", "@\N{ZERO WIDTH SPACE}")


def cut(text: str) -> str:
    """At most MAX_NBYTES, whole lines, with a word on what is missing."""
    raw = text.encode()
    if len(raw) <= MAX_NBYTES:
        return text
    kept = raw[:MAX_NBYTES].decode(errors="ignore").rsplit("\n", 1)[0]
    return f"{kept}\n\n… cut: the summary of a step may have 1,024 KiB.\n"
