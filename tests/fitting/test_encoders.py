"""Encoders that calibrate: fast is a search with the sums' importance; the others fit rows on all of the text."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import quant
from ggufkit.encoding.encoder import BYTES_PER_WEIGHT
from ggufkit.errors import OutputError
from ggufkit.fitting.encoders import Effort, FittedEncoder, ImportanceEncoder, bytes_per_weight
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.notebook import Notebook
from ggufkit.fitting.sources import OnChunk
from ggufkit.fitting.token_weights import GradientSums, TokenWeights
from quant import coupling, feedback
from quant.importance import importance
from tests.fitting.test_evidence import SHAPES, N, Source

UP, OUTPUT = "blk.0.ffn_up_exps.weight", "output.weight"
W = np.random.default_rng(3).standard_normal((40, N)).astype(np.float32)
ROWS = np.concatenate([W, -W])


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


def test_rows_are_fitted_on_all_of_the_text(evidence: Evidence) -> None:
    evidence.hold(evidence.walks[0])
    encode, qtype = FittedEncoder(evidence, Effort.BALANCED), quant.quant_type("Q4_0")
    known = evidence.of_expert(OUTPUT, 0, whole=True)
    assert known is not None and known.held_out is None
    wanted = feedback.encode(W, qtype, known.curve, n_refine=2)
    assert np.array_equal(encode(planned(OUTPUT), 0, W), wanted)
    assert encode.tally[OUTPUT] == {"fitted": len(W), "plain": 0}
    part = evidence.of_expert(OUTPUT, 0)
    assert part is not None and not np.array_equal(part.curve.moments, known.curve.moments)


def test_rows_that_are_not_finite_are_searched_the_others_fitted(evidence: Evidence) -> None:
    evidence.hold(evidence.walks[0])
    w = W.copy()
    w[3, 5] = np.inf
    encode, whole = FittedEncoder(evidence, Effort.BALANCED), FittedEncoder(evidence, Effort.BALANCED)
    made, wanted = encode(planned(OUTPUT), 0, w), whole(planned(OUTPUT), 0, W)
    assert encode.tally[OUTPUT] == {"fitted": len(W) - 1, "plain": 1}
    assert np.array_equal(np.delete(made, 3, axis=0), np.delete(wanted, 3, axis=0))


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


def together(notebook: Notebook | None = None) -> Evidence:
    """Evidence of the output matrix, whose rows go together in groups of 40."""

    def weigh(_: OnChunk) -> TokenWeights:
        rng = np.random.default_rng(9)
        sums = GradientSums(lambda _: True, {OUTPUT: 40})
        shared = rng.standard_normal((32, 1, 5)) @ rng.standard_normal((5, len(ROWS)))
        sums(OUTPUT, shared.astype(np.float32), None)
        return TokenWeights(sums.stiffness(np.arange(8), 4), 8, 4)

    evidence = Evidence(Source(), {OUTPUT: SHAPES[OUTPUT]}, weigh=weigh, groups={OUTPUT: 40}, notebook=notebook)
    evidence.hold(evidence.walks[0])
    return evidence


def test_rows_that_go_together_are_encoded_together_wherever_their_moments_wait(tmp_path: Path) -> None:
    qtype = quant.quant_type("Q4_0")
    in_memory, kept = together(), together(Notebook(tmp_path / "kept"))
    rows, known = in_memory.coupling(OUTPUT), in_memory.of_expert(OUTPUT, 0, whole=True)
    assert rows is not None and known is not None
    wanted = coupling.encode(ROWS, qtype, known.curve, rows, first=0, n_refine=2)
    assert not np.array_equal(wanted, feedback.encode(ROWS, qtype, known.curve, n_refine=2))
    again = together(Notebook(tmp_path / "kept"))  # a run that goes on
    for evidence in (in_memory, kept, again):
        encode = FittedEncoder(evidence, Effort.BALANCED)
        assert encode.rows_together == {OUTPUT: 40}
        assert np.array_equal(encode(planned(OUTPUT), 0, ROWS), wanted)
        assert np.array_equal(encode(planned(OUTPUT), 0, ROWS[40:], 40), wanted[40:])
        there = pickle.loads(pickle.dumps(encode.of_expert(planned(OUTPUT), 0)))
        assert np.array_equal(there(ROWS[40:], 40)[0], wanted[40:])
    assert all(one.weights.by_name[OUTPUT].together is None for one in (kept, again) if one.weights)
    assert FittedEncoder(in_memory, Effort.FAST).rows_together == {}


def test_what_is_lost_of_rows_that_go_together_is_measured_again(tmp_path: Path) -> None:
    book = tmp_path / "kept"
    wanted = FittedEncoder(together(Notebook(book)), Effort.BALANCED)(planned(OUTPUT), 0, ROWS)
    (lost,) = book.glob("together-*.npz")
    lost.unlink()
    again = together(Notebook(book))
    assert lost.exists() and np.array_equal(FittedEncoder(again, Effort.BALANCED)(planned(OUTPUT), 0, ROWS), wanted)
    lost.write_bytes(b"torn")
    with pytest.raises(OutputError, match="what was kept of output.weight cannot be read. Start again with --restart"):
        FittedEncoder(together(Notebook(book)), Effort.BALANCED)(planned(OUTPUT), 0, ROWS)
