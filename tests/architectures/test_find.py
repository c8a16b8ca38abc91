"""Heads and wrappers: what a folder's class says, and what becomes of the language model inside."""

import json
from pathlib import Path

import pytest

from ggufkit.architectures import convert
from ggufkit.errors import CheckpointError
from ggufkit.formats.checkpoint import Checkpoint
from tests.architectures import tiny
from tests.architectures.emit import metadata_facts, tensor_facts

LLAMA, TIED = "mistral-7b-v0.1", "llama-3.2-1b-instruct"


def saved(name: str, root: Path, config, rename=str, extra: dict[str, list[int]] | None = None) -> Path:
    """Case `name` with another config and names of tensors; weights stay those of the old names."""
    case, folder = tiny.load_case(name), root / name
    tiny.write_files(case | {"config": config(case["config"])}, folder)
    tensors = {}
    for key, shape in (case["source"] | (extra or {})).items():
        tensors[rename(key)] = tiny.tensor_of(key, shape, case["dtype"])[1:]
    tiny.write_safetensors(folder / "model.safetensors", {key: tensors[key] for key in sorted(tensors)}, case["dtype"])
    return folder


def require_same(folder: Path, plain: Path, note: str) -> None:
    model, wanted = convert(Checkpoint.open(folder)), convert(Checkpoint.open(plain))
    assert metadata_facts(model, "f32") == metadata_facts(wanted, "f32")
    assert tensor_facts(model, "f32") == tensor_facts(wanted, "f32")
    assert [line for line in model.notes if note in line], model.notes


def text_config(**more: object):
    """A wrapper's config: what is said of the language model lies inside."""

    def change(config: dict) -> dict:
        inner = {key: value for key, value in config.items() if key != "architectures"}
        return {"text_config": inner, **more}

    return change


def test_a_wrapper_that_nobody_knows_has_its_language_model_converted(tmp_path: Path) -> None:
    """LLaVA and its kin."""
    folder = saved(
        LLAMA, tmp_path / "a", text_config(architectures=["LlavaForConditionalGeneration"], model_type="llava"),
        rename=lambda key: key if key.startswith(("multi", "vision")) else f"language_model.{key}",
        extra={"multi_modal_projector.linear_1.weight": [8, 8], "vision_tower.embeddings.weight": [8, 8]},
    )  # fmt: skip
    require_same(folder, tiny.build(LLAMA, tmp_path), "read as MistralForCausalLM")


def test_a_text_model_inside_of_a_model(tmp_path: Path) -> None:
    """SmolVLM and its kin."""
    inside = {"model.": "model.text_model."}
    folder = saved(
        LLAMA, tmp_path / "a", text_config(architectures=["SmolVLMForConditionalGeneration"], model_type="smolvlm"),
        rename=lambda key: key if "connector" in key or "vision" in key else key.replace(*next(iter(inside.items()))),
        extra={"model.connector.modality_projection.proj.weight": [8, 8], "model.vision_model.x.weight": [8, 8]},
    )  # fmt: skip
    require_same(folder, tiny.build(LLAMA, tmp_path), "read as MistralForCausalLM")


def test_classes_of_the_language_model_inside(tmp_path: Path) -> None:
    def change(config: dict) -> dict:
        return {"architectures": ["MyVoice"], "text_config": config}

    require_same(saved(LLAMA, tmp_path / "a", change), tiny.build(LLAMA, tmp_path), "'MyVoice'; read as Mistral")


def test_an_unknown_language_model_inside_is_refused(tmp_path: Path) -> None:
    def change(config: dict) -> dict:
        return {"architectures": ["MyVoice"], "text_config": config | {"architectures": None, "model_type": "odd"}}

    with pytest.raises(CheckpointError, match="architecture 'MyVoice' is not known"):
        convert(Checkpoint.open(saved(LLAMA, tmp_path, change)))


@pytest.mark.parametrize("name", ["LlamaModel", "LlamaForSequenceClassification", "LlamaForTokenClassification"])
def test_where_embeddings_make_the_logits_a_head_is_not_missed(name: str, tmp_path: Path) -> None:
    folder = saved(
        TIED, tmp_path / "a", lambda config: config | {"architectures": [name]}, extra={"score.weight": [2, 64]}
    )
    require_same(folder, tiny.build(TIED, tmp_path), f"{name} is read as LlamaForCausalLM")
    assert convert(Checkpoint.open(folder)).dropped == {"score.weight": "a head that predicts no tokens"}


def test_weights_saved_without_the_class_that_has_the_head(tmp_path: Path) -> None:
    """Embedding models are saved so: layers.0.… instead of model.layers.0.…"""
    folder = saved(
        TIED, tmp_path / "a", lambda config: config | {"architectures": ["LlamaModel"]},
        rename=lambda key: key.removeprefix("model."),
    )  # fmt: skip
    require_same(folder, tiny.build(TIED, tmp_path), "LlamaModel is read as LlamaForCausalLM")


def test_a_value_head_of_the_training_is_left_out(tmp_path: Path) -> None:
    folder = saved(LLAMA, tmp_path, dict, extra={"v_head.summary.weight": [1, 64], "v_head.summary.bias": [1]})
    model = convert(Checkpoint.open(folder))
    assert set(model.dropped.values()) == {"a head that predicts no tokens"} and len(model.dropped) == 2


def test_a_reward_model_without_a_head_for_tokens_says_what_to_use(tmp_path: Path) -> None:
    folder = tiny.build(LLAMA, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["MistralForSequenceClassification"]}))
    with pytest.raises(CheckpointError, match=r"predicts no tokens.*Use the checkpoint of MistralForCausalLM"):
        convert(Checkpoint.open(folder))


def test_biases_that_quantizers_write_have_a_place(tmp_path: Path) -> None:
    """AutoGPTQ writes zeros for every matrix, whether the model has biases or not."""
    folder = saved(LLAMA, tmp_path, dict, extra={"model.layers.0.self_attn.q_proj.bias": [64]})
    assert "blk.0.attn_q.bias" in {tensor.name for tensor in convert(Checkpoint.open(folder)).tensors}
