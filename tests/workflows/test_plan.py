"""Plans as people and machines see them: what the source becomes, what it takes, and whether it runs here."""

import json
import math
import re
from pathlib import Path

import pytest

from ggufkit.encoding.job import Job
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import RecipeError, UsageError
from ggufkit.fitting.encoders import Effort
from ggufkit.formats.model import Model
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.recipe import Recipe, RecipeRule
from ggufkit.recipes.search import Target
from ggufkit.reports.plan_text import render
from ggufkit.reports.result import as_dict
from ggufkit.runtime import memory
from ggufkit.workflows import fit_plan
from ggufkit.workflows.plan import headroom, plan, plan_report
from ggufkit.workflows.quantize import quantize
from tests.recipes.narrow import Narrow, write_narrow
from tests.recipes.shapes import SHAPES, model_of

GIB = 1 << 30
MODELS = Path(__file__).resolve().parents[2] / "models"
MIXTRAL = model_of(SHAPES["mixtral-8x7b"])


def job_of(model: Model, recipe: str) -> Job:
    settings = QuantizeSettings(source=Path("source"), output=Path("out.gguf"), recipe=recipe)
    return Job(settings, model, make_plan(model, recipe), None, (), 8, slab_weights=1, peak_nbytes=GIB, identity="")


def test_plan_of_a_file_is_what_quantize_writes(tmp_path: Path) -> None:
    source = write_narrow(tmp_path / "source.gguf", Narrow(n_layer=8, n_expert=8, n_rows=2))
    report = plan(source, "Q4_K_M", threads=2)
    quantize(QuantizeSettings(source=source, output=tmp_path / "out.gguf", threads=2, provenance=False))
    written = (tmp_path / "out.gguf").stat().st_size
    assert written <= report.file_nbytes <= written + 4096  # the report counts the lines of provenance too
    assert [row.type for row in report.tensors if row.name == "blk.0.attn_v.weight"] == ["Q8_0"]
    assert report.disk_nbytes >= written
    assert 0 < report.peak_nbytes <= 2 * GIB


@pytest.mark.parametrize(
    ("ram_gib", "sentence"),
    [
        (24, "It does not fit this machine"),
        (32, r"It fits this machine .* with up to 1[5-9]\d\d\d of its 32768 tokens of context"),
        (64, "It fits this machine .* at its full context of 32768 tokens"),
    ],
)
def test_text_says_whether_mixtral_runs_here(ram_gib: int, sentence: str) -> None:
    text = render(plan_report(job_of(MIXTRAL, "Q4_K_M"), memory_nbytes=ram_gib * GIB))
    assert "Q4_K_M: 26.49 GiB, 4.873 bits a weight, 46.7 B weights" in text
    assert "blk.{0-31}.attn_v.weight" in text
    assert "attn_v is small beside 8 experts" in text
    assert len(text.splitlines()) < 30
    assert re.search(sentence, text), text


def test_fit_counts_weights_and_f16_keys_and_values() -> None:
    found = headroom(MIXTRAL.hparams, 26 * GIB, 32 * GIB)
    per_token = 32 * 8 * (128 + 128) * 2
    assert found.needs[32768] - found.needs[2048] >= (32768 - 2048) * per_token
    assert memory.fits(32 * GIB, 26 * GIB, MIXTRAL.hparams, found.largest_ctx)
    assert not memory.fits(32 * GIB, 26 * GIB, MIXTRAL.hparams, found.largest_ctx + 256)


def test_json_holds_every_tensor_and_its_reason() -> None:
    result = json.loads(json.dumps(as_dict(plan_report(job_of(MIXTRAL, "Q4_K_M"), memory_nbytes=32 * GIB))))
    assert result["schema"] == "ggufkit/plan@1"
    assert len(result["tensors"]) == len(MIXTRAL.tensors)
    assert sum(row["nbytes"] for row in result["tensors"]) == sum(result["nbytes_by_type"].values())
    down = next(row for row in result["tensors"] if row["name"] == "blk.6.ffn_down_exps.weight")
    assert down == {
        "name": "blk.6.ffn_down_exps.weight",
        "shape": [8, 4096, 14336],
        "source_type": "BF16",
        "type": "Q6_K",
        "nbytes": 385351680,
        "reason": "ffn_down, more bits",
    }


def test_fallbacks_are_shown_with_their_reason() -> None:
    text = render(plan_report(job_of(model_of(SHAPES["odd-rows"]), "Q4_K_M"), memory_nbytes=GIB))
    assert "5504 columns, Q6_K needs a multiple of 256: Q8_0 instead" in text


def test_unknown_type_and_useless_rule_are_errors(tmp_path: Path) -> None:
    source = write_narrow(tmp_path / "source.gguf", Narrow(n_layer=2))
    with pytest.raises(UsageError, match="unknown type 'Q4_Q'. Known: F32, F16"):
        plan(source, "Q4_Q")
    rule = RecipeRule("Q6_K", match="blk.7.ffn_down.weight")
    with pytest.raises(RecipeError, match="matches no tensor"):
        plan(source, Recipe("mine", base="Q4_K_M", rules=(rule,)))


@pytest.mark.parametrize(("model", "bpw"), [("tiny-mixtral", 6.0), ("stories260K", 9.5)])
def test_a_target_is_planned_with_types_that_keep_within_it(model: str, bpw: float) -> None:
    source = MODELS / model
    roomy = plan(source, target=Target(bpw=bpw))
    assert 0.8 * bpw < roomy.bpw <= bpw
    tight = plan(source, target=Target(nbytes=roomy.file_nbytes - 20_000))
    assert tight.file_nbytes <= roomy.file_nbytes - 20_000
    assert "guess" in tight.notes[-1]
    with pytest.raises(UsageError, match="out of reach"):
        plan(source, target=Target(nbytes=1000))


def test_a_divergence_cannot_be_planned() -> None:
    with pytest.raises(UsageError, match="after measuring only"):
        plan(MODELS / "tiny-mixtral", target=Target(kld=0.1))


def test_a_plan_of_an_effort_says_what_fitting_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_plan, "_WORTH_MEASURING_S", math.inf)
    report = plan(MODELS / "tiny-mixtral", effort=Effort.BALANCED, target=Target(bpw=4.0), n_tokens=4096, threads=2)
    cost = report.fitting
    assert cost is not None and cost.by_layer and cost.n_readings == 1 and not cost.are_measured
    assert list(cost.seconds) == ["weighing tokens", "calibration", "types", "encoding"]
    assert report.peak_nbytes >= cost.memory_nbytes and cost.disk_nbytes > 0
    assert any("guess" in note for note in report.notes)
    assert re.search(
        r"to fit it: effort balanced: about .* in all \(assumed, not measured here\): weighing", render(report)
    )
    assert as_dict(report)["fitting"]["seconds"]["types"] > 0
    assert plan(MODELS / "tiny-mixtral").fitting is None


def test_fitting_gathers_its_own_evidence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--imatrix and --effort exclude each other"):
        plan(MODELS / "tiny-mixtral", effort=Effort.FAST, imatrix=tmp_path / "imatrix.gguf")
