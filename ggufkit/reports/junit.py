"""A gate's result as JUnit XML: a test case a check; what is undecided is skipped."""

import dataclasses
import re
from typing import Any
from xml.etree import ElementTree

from ggufkit.formats.printable import cleaned
from ggufkit.proof.trial import Check
from ggufkit.workflows.gate import GateResult
from quant.confseq import Outcome

# XML 1.0 knows no way to write these
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def render(result: GateResult) -> str:
    """One test suite. Counts are those of its cases."""
    result = cleaned(result, lines=True)
    checks = result.checks
    outcomes = [check.outcome for check in checks]
    counts = {
        "tests": str(len(checks)),
        "failures": str(outcomes.count(Outcome.FAIL)),
        "errors": "0",
        "skipped": str(outcomes.count(Outcome.INCONCLUSIVE)),
        "time": f"{result.seconds:.3f}",
    }
    root = ElementTree.Element("testsuites", {"name": "ggufkit gate", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(result.candidate.file), **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(result):
        ElementTree.SubElement(properties, "property", {"name": name, "value": _clean(str(value))})
    for check in checks:
        _add_case(suite, check)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _properties(result: GateResult) -> list[tuple[str, Any]]:
    rows = [("verdict", result.verdict), ("sentence", result.sentence)]
    rows += [(f"candidate.{key}", getattr(result.candidate, key)) for key in ("fingerprint", "type", "nbytes")]
    rows += [(f"base.{key}", getattr(result.base, key)) for key in ("file", "fingerprint")]
    return rows + [(f"environment.{key}", value) for key, value in dataclasses.asdict(result.environment).items()]


def _add_case(suite: ElementTree.Element, check: Check) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", {"classname": f"gate.{check.group}", "name": _clean(check.title), "time": "0"}
    )
    message = _clean(check.message)
    match check.outcome:
        case "fail":
            failure = ElementTree.SubElement(case, "failure", {"type": check.name, "message": message})
            failure.text = message
        case "inconclusive":
            ElementTree.SubElement(case, "skipped", {"message": message})
        case _:
            ElementTree.SubElement(case, "system-out").text = message


def _clean(text: str) -> str:
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)
