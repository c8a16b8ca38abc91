"""A gate's result as GitHub annotations: errors for what fails, warnings for what is undecided, a notice for a pass.

GitHub shows 10 of a kind a step and 50 a job, so the last of many says how many there are.
"""

from ggufkit.formats.printable import cleaned
from ggufkit.workflows.gate import GateResult

MAX_OF_A_KIND = 10


def render(result: GateResult) -> list[str]:
    """Lines for the log of a step."""
    result = cleaned(result)
    file = result.candidate.file
    if result.verdict == "pass":
        return [_line("notice", "ggufkit gate: pass", result.sentence)]
    lines: list[str] = []
    for outcome, kind in (("fail", "error"), ("inconclusive", "warning")):
        checks = [check for check in result.checks if check.outcome == outcome]
        shown = checks if len(checks) <= MAX_OF_A_KIND else checks[: MAX_OF_A_KIND - 1]
        lines += [_line(kind, f"ggufkit gate: {check.title}", f"{file}: {check.message}") for check in shown]
        if len(shown) < len(checks):
            lines.append(_line(kind, "ggufkit gate", f"{file}: {len(checks) - len(shown)} more checks: {outcome}"))
    return lines


def _line(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
