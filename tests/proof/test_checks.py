"""Checks without a running model: parts of a file pass and fail by their findings, sizes by their limits."""

import pytest

from ggufkit.differences.structure import KINDS, Finding, Severity
from ggufkit.proof.checks import size_checks, structure_checks, unmeasurable
from ggufkit.proof.facts import ModelFacts
from ggufkit.proof.limits import GateConfig
from quant.confseq import Outcome

FACTS = ModelFacts("x.gguf", 1000, "", "llama", "", "Q4_K_M", 1600, 5.0)


@pytest.mark.parametrize("part", KINDS)
def test_a_finding_fails_its_part_and_no_other(part: str) -> None:
    found = [Finding(kind, "w", f"{kind} differs") for kind in KINDS[part]]
    checks = list(structure_checks(found, GateConfig(), weights=True))
    assert [check.name for check in checks] == list(KINDS)
    assert [check.name for check in checks if check.outcome is Outcome.FAIL] == [part]
    (failed,) = (check for check in checks if check.outcome is Outcome.FAIL)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    assert failed.message == f"{found[0].kind} differs{more}"


def test_notes_and_what_is_tolerated_fail_nothing() -> None:
    found = [Finding("loss", "w", "far", Severity.NOTE), Finding("metadata", "rope.freq_base", "differs")]
    checks = structure_checks(found, GateConfig(ignore=("rope.*",)), weights=True)
    assert {check.outcome for check in checks} == {Outcome.PASS}


def test_weights_that_were_not_compared_are_no_check() -> None:
    assert "weights" not in [check.name for check in structure_checks([], GateConfig(), weights=False)]


def test_a_size_may_be_its_limit_and_no_more() -> None:
    config = GateConfig(limits={"nbytes": 1000, "bpw": 4.9, "kld_mean": 0.1})
    nbytes, bpw = size_checks(FACTS, config)
    assert (nbytes.outcome, nbytes.message) == (Outcome.PASS, "1000, wanted at most 1000")
    assert (bpw.outcome, bpw.value, bpw.limit) == (Outcome.FAIL, 5.0, 4.9)


@pytest.mark.parametrize(
    ("kind", "with_a_model", "with_a_file"),
    [("token", True, True), ("shape", True, True), ("nan", True, True), ("tokenizer", False, True),
     ("metadata", False, False), ("loss", False, False)],
)  # fmt: skip
def test_what_leaves_no_common_ground(kind: str, with_a_model: bool, with_a_file: bool) -> None:
    found = [Finding(kind, "w", "it differs")]
    for stored, expected in ((False, with_a_model), (True, with_a_file)):
        reason = unmeasurable(found, GateConfig(), with_a_file=stored)
        assert reason == ("not measured, because it differs" if expected else "")
    assert unmeasurable(found, GateConfig(ignore=(kind,)), with_a_file=True) == ""
