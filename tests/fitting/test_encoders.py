"""Encoders that calibrate: fast is a search with the sums' importance; fitted rows are kept where they err less."""

from types import SimpleNamespace

import numpy as np
import pytest

import quant
from ggufkit.encoding.encoder import BYTES_PER_WEIGHT
from ggufkit.fitting.encoders import Effort, FittedEncoder, ImportanceEncoder, bytes_per_weight
from ggufkit.fitting.evidence import Evidence
from quant import feedback
from quant.importance import importance
from tests.fitting.test_evidence import SHAPES, N, Source

UP, OUTPUT = "blk.0.ffn_up_exps.weight", "output.weight"
W = np.random.default_rng(3).standard_normal((40, N)).astype(np.float32)


def planned(name: str, kind: str = "Q4_0") -> SimpleNamespace:
    return SimpleNamespace(name=name, qtype=quant.quant_type(kind))


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence(Source(), {OUTPUT: SHAPES[OUTPUT]})


def test_fast_searches_with_each_experts_importance() -> None:
    evidence = Evidence(Source(), SHAPES, moments=False, sums=True)
    evidence.know(evidence.walks[0])
    encode, means = ImportanceEncoder(evidence), importance(evidence.sums[UP])
    for expert in (0, 1):
        wanted = quant.quantize(W, quant.quant_type("Q4_0"), importance=means[expert])
        assert np.array_equal(encode(planned(UP), expert, W), wanted)
    assert np.array_equal(encode(planned(UP, "F16"), 0, W), quant.quantize(W, quant.quant_type("F16")))


def test_each_row_is_stored_in_its_better_form(evidence: Evidence) -> None:
    evidence.hold(evidence.walks[0])
    encode = FittedEncoder(evidence, Effort.BALANCED)
    made, qtype, known = encode(planned(OUTPUT), 0, W), quant.quant_type("Q4_0"), evidence.of_expert(OUTPUT, 0)
    assert known is not None
    fitted = feedback.encode(W, qtype, known.curve, n_refine=2)
    plain = quant.quantize(W, qtype, importance=known.importance)
    errors = [feedback.row_errors(W, form, qtype, known.held_out) for form in (made, fitted, plain)]
    assert np.array_equal(errors[0], np.minimum(errors[1], errors[2]))
    n_fitted = int((errors[1] < errors[2]).sum())
    assert encode.tally[OUTPUT] == {"fitted": n_fitted, "plain": len(W) - n_fitted}
    assert 0 < n_fitted < len(W)


def test_a_tensor_without_evidence_and_a_layout_without_a_grid_are_searched(evidence: Evidence) -> None:
    encode = FittedEncoder(evidence, Effort.BALANCED)
    assert np.array_equal(encode(planned("other.weight"), 0, W), quant.quantize(W, quant.quant_type("Q4_0")))
    assert not encode.tally


def test_the_identity_and_the_memory_follow_the_effort(evidence: Evidence) -> None:
    assert len({FittedEncoder(evidence, effort).identity for effort in Effort}) == 3
    assert bytes_per_weight(Effort.FAST) == BYTES_PER_WEIGHT < bytes_per_weight(Effort.BEST)


def test_the_file_says_effort_and_text_without_a_path(evidence: Evidence) -> None:
    rows = {kv.key: kv.value for kv in FittedEncoder(evidence, Effort.BEST).metadata}
    assert rows["ggufkit.fit.effort"] == "best" and rows["ggufkit.fit.n_ctx"] == 4
    assert len(rows["ggufkit.fit.text_sha256"]) == 64 and "model.gguf" not in str(rows)
