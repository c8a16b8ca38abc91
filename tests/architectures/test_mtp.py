"""Blocks that guess further tokens: kept, dropped, absent; never coarse without importance."""

import pytest

from ggufkit.architectures import convert
from ggufkit.architectures.source import open_source
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.recipe import Recipe, RecipeRule
from tests.architectures import tiny

QWEN35 = ["qwen3.5-4b", "qwen3.5-35b-a3b", "qwen3-next-80b-a3b-instruct"]
NEXTN = "nextn_predict_layers"


@pytest.mark.parametrize("name", QWEN35)
def test_dropped_as_asked(name, tmp_path):
    model = open_source(tiny.build(name, tmp_path), mtp=False)
    assert model.hparams.n_layer == 2 and model.hparams.n_mtp == 0
    assert not any(kv.key.endswith(NEXTN) for kv in model.metadata)
    assert not any(tensor.name.startswith("blk.2.") for tensor in model.tensors)
    mtp = {name for name in tiny.load_case(name)["source"] if name.startswith("mtp.")}
    assert {name for name, why in model.dropped.items() if "guesses further tokens" in why} == mtp


@pytest.mark.parametrize("name", QWEN35)
def test_a_fine_tune_that_has_lost_it_is_a_model_without(name, tmp_path):
    """Whatever mtp_num_hidden_layers says."""
    case = tiny.load_case(name)
    tiny.write_files(case, tmp_path)
    source = {name: shape for name, shape in case["source"].items() if not name.startswith("mtp.")}
    tiny.write_weights(source, "BF16", tmp_path)
    model = convert(Checkpoint.open(tmp_path))
    assert model.hparams.n_layer == 2 and model.hparams.n_mtp == 0


@pytest.mark.parametrize("mixture", ["Q2_K", "Q3_K_S", "Q4_0", "Q4_K_M", "Q6_K"])
@pytest.mark.parametrize("name", QWEN35)
def test_without_importance_its_matrices_are_q5_k_or_finer(name, mixture, tmp_path):
    model = open_source(tiny.build(name, tmp_path))
    plan = make_plan(model, mixture)
    mine = [t for t in plan.tensors if t.name.startswith("blk.2.") and t.qtype.is_quantized]
    assert len(mine) > 5 and all(t.qtype.bpw >= 5.5 for t in mine)
    if mixture == "Q2_K":
        assert any("without importance" in t.reason or "needs a multiple" in t.reason for t in mine)
    known = make_plan(model, "Q4_0", importance={t.name for t in plan.tensors})
    assert any(t.qtype.name == "Q4_0" for t in known.tensors if t.name.startswith("blk.2."))


def test_a_recipe_that_names_it_decides(tmp_path):
    model = open_source(tiny.build("qwen3.5-4b", tmp_path))
    plan = make_plan(model, Recipe("mine", base="Q8_0", rules=(RecipeRule("Q4_0", match="blk.2.ffn_*.weight"),)))
    assert {t.qtype.name for t in plan.tensors if t.name.startswith("blk.2.ffn_") and t.qtype.is_quantized} == {"Q4_0"}
