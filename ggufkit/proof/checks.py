"""Checks of a gate that need no running model: what the file is made of, and how large it is."""

from collections.abc import Iterator, Sequence

from ggufkit.differences.structure import KINDS, Finding, Severity
from ggufkit.proof.facts import ModelFacts
from ggufkit.proof.limits import METRICS, SIZES, GateConfig
from ggufkit.proof.trial import Check
from quant.confseq import Outcome

# findings that leave no common ground on which to compare probabilities
_NO_COMMON_GROUND = ("token", "tensor", "shape", "nan")
# and where the baseline is a file: its tokens cannot be given to the candidate
_NOR_WITH_A_FILE = (*_NO_COMMON_GROUND, "tokenizer")
# part of the file -> what holds where the check passes
_STRUCTURE = {
    "metadata": "hyper-parameters are the original's",
    "template": "the chat template is the original's",
    "tokenizer": "tokens and their handling are the original's",
    "tensors": "all tensors are there, in the original's shapes, of the types that the file claims",
    "finite": "all weights are finite",
    "weights": "every tensor that both have is what its type makes of the original's",
}


def structure_checks(findings: Sequence[Finding], config: GateConfig, *, weights: bool) -> Iterator[Check]:
    """One check a part of the file. `weights`: whether they were compared."""
    for part, holds in _STRUCTURE.items():
        if part == "weights" and not weights:
            continue
        errors = [one for one in findings if one.kind in KINDS[part] and _counts(one, config)]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        outcome = Outcome.FAIL if errors else Outcome.PASS
        yield Check(part, part, "structure", outcome, errors[0].message + more if errors else holds)


def size_checks(candidate: ModelFacts, config: GateConfig) -> Iterator[Check]:
    """One check a limit of size."""
    for name in SIZES:
        if name in config.limits:
            value, limit = float(getattr(candidate, name)), config.limits[name]
            outcome = Outcome.PASS if value <= limit else Outcome.FAIL
            message = f"{value:.10g}, wanted at most {limit:.10g}"
            yield Check(
                name, METRICS[name].title, "size", outcome, message, value=value, low=value, high=value, limit=limit
            )


def unmeasurable(findings: Sequence[Finding], config: GateConfig, *, with_a_file: bool) -> str:
    """Why probabilities cannot be compared, "" where they can. `with_a_file`: the original is a baseline file."""
    kinds = _NOR_WITH_A_FILE if with_a_file else _NO_COMMON_GROUND
    for one in findings:
        if one.kind in kinds and _counts(one, config):
            return f"not measured, because {one.message}"
    return ""


def _counts(finding: Finding, config: GateConfig) -> bool:
    return finding.severity is Severity.ERROR and not config.tolerates(finding)
