"""Mistral's own files: entries and tensors as llama.cpp's converter makes them, tokens as mistral-common cuts them.

DIFFERENCES is the whole list of what we store otherwise, with the reason.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ggufkit.architectures import convert
from ggufkit.architectures.mistral import RENAMES, told
from ggufkit.architectures.source import open_source
from ggufkit.cli import main
from ggufkit.errors import CheckpointError, TokenizerError
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.runtime.chat import Message, tokenize_chat
from ggufkit.runtime.engine import Engine
from tests.architectures import tiny
from tests.architectures.emit import metadata_facts, tensor_facts, write_gguf
from tests.data.mistral.make import CASES, CHATS, write
from tests.tokenizer.texts import TEXTS

FACTS = json.loads((Path(__file__).parents[1] / "data" / "mistral" / "cases.json").read_text(encoding="utf-8"))
# key → reason
DIFFERENCES = {
    "tokenizer.chat_template": "the converter stores a name that llama.cpp alone knows; ours is a template",
    "tokenizer.ggml.scores": "zeros, which the converter stores as whole numbers and llama.cpp reads as floats",
}


@pytest.mark.parametrize("name", CASES)
def test_entries_are_the_converters(name: str, tmp_path: Path) -> None:
    ours = metadata_facts(convert(Checkpoint.open(write(name, tmp_path))), "f32")
    wanted = FACTS[name]["kv"]
    differing = {key for key in ours.keys() | wanted.keys() if ours.get(key) != wanted.get(key)}
    expected = {"tokenizer.chat_template"} if "template" not in CASES[name] else set()
    assert differing == expected | (set() if CASES[name].get("spm") else {"tokenizer.ggml.scores"})
    assert differing <= DIFFERENCES.keys()


@pytest.mark.parametrize("name", CASES)
def test_tensors_are_the_converters(name: str, tmp_path: Path) -> None:
    model = convert(Checkpoint.open(write(name, tmp_path)))
    assert {key: list(facts.values()) for key, facts in tensor_facts(model, "f32").items()} == FACTS[name]["tensors"]


@pytest.mark.parametrize("name", CASES)
def test_tokens_are_those_of_mistral_common(name: str, tmp_path: Path) -> None:
    model = convert(Checkpoint.open(write(name, tmp_path)))
    path = write_gguf(tmp_path / "model.gguf", model.metadata, model.tensors)
    with Engine.open(path, n_ctx=64, threads=1) as engine:
        assert {key: engine.vocab.tokenize(text, add_special=False).tolist() for key, text in TEXTS.items()} == FACTS[
            name
        ]["ids"]
        for chat, wanted in zip(CHATS, FACTS[name]["chats"], strict=True):
            if "template" not in CASES[name]:
                ids = tokenize_chat(engine, [Message(role, text) for role, text in chat])
                assert ids.tolist() == wanted


def as_transformers(name: str, root: Path) -> Path:
    """The same model as transformers saves it: other names, halves of heads apart."""
    own = write(name, root)
    checkpoint = Checkpoint.open(own)
    folder = root / "saved" / name
    folder.mkdir(parents=True)
    tiny.write_json(folder / "config.json", dict(told(checkpoint).config))
    (folder / "tekken.json").write_bytes((own / "tekken.json").read_bytes())
    tensors = {}
    for name_, ref in checkpoint.tensors.items():
        renamed = name_
        for pattern, text in RENAMES.items():
            renamed = re.sub(pattern, text, renamed)
        rows = ref.raw_rows(0, ref.n_rows)
        for part, heads in (("q_proj", 4), ("k_proj", 2)):
            if part in renamed:
                order = np.arange(len(rows)).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
                rows = rows[np.argsort(order)]
        tensors[renamed] = (ref.shape, rows.tobytes())
    tiny.write_safetensors(folder / "model.safetensors", tensors, "BF16")
    return folder


@pytest.mark.parametrize("name", ["mistral-small", "mistral-nemo"])
def test_transformers_folder_with_tekken_alone_makes_the_same_file(name: str, tmp_path: Path) -> None:
    own, saved = (
        convert(Checkpoint.open(write(name, tmp_path / "own"))),
        convert(Checkpoint.open(as_transformers(name, tmp_path))),
    )
    assert metadata_facts(own, "f32") == metadata_facts(saved, "f32")
    assert tensor_facts(own, "f32") == tensor_facts(saved, "f32")


def test_a_config_beside_consolidated_does_not_change_the_order_of_rows(tmp_path: Path) -> None:
    folder = write("mistral-small", tmp_path)
    before = tensor_facts(convert(Checkpoint.open(folder)), "f32")
    tiny.write_json(folder / "config.json", dict(told(Checkpoint.open(folder)).config))
    assert tensor_facts(convert(Checkpoint.open(folder)), "f32") == before


def test_of_both_kinds_of_weights_config_json_takes_its_own(tmp_path: Path) -> None:
    folder, own = as_transformers("mistral-small", tmp_path), tmp_path / "mistral-small"
    (folder / "consolidated.safetensors").write_bytes((own / "consolidated.safetensors").read_bytes())
    (folder / "params.json").write_bytes((own / "params.json").read_bytes())
    assert [shard.file.path.name for shard in Checkpoint.open(folder).shards] == ["model.safetensors"]
    (folder / "config.json").unlink()
    assert [shard.file.path.name for shard in Checkpoint.open(folder).shards] == ["consolidated.safetensors"]


def test_shards_of_its_own_names(tmp_path: Path) -> None:
    folder = write("mistral-small", tmp_path)
    before = tensor_facts(convert(Checkpoint.open(folder)), "f32")
    refs = Checkpoint.open(folder).tensors
    names, weight_map = sorted(refs), {}
    for i in range(2):
        shard = f"consolidated-{i + 1:05}-of-00002.safetensors"
        mine = {key: (refs[key].shape, refs[key].raw_rows(0, refs[key].n_rows).tobytes()) for key in names[i::2]}
        tiny.write_safetensors(folder / shard, mine, "BF16")
        weight_map |= dict.fromkeys(mine, shard)
    (folder / "consolidated.safetensors").unlink()
    assert tensor_facts(convert(Checkpoint.open(folder)), "f32").items() == before.items()
    tiny.write_json(folder / "consolidated.safetensors.index.json", {"weight_map": weight_map})
    assert tensor_facts(convert(Checkpoint.open(folder)), "f32").items() == before.items()
    weight_map["norm.weight"] = "consolidated-00001-of-00002.safetensors"
    tiny.write_json(
        folder / "consolidated.safetensors.index.json", {"weight_map": weight_map | {"x": weight_map["norm.weight"]}}
    )
    with pytest.raises(CheckpointError, match=r"consolidated\.safetensors\.index\.json says"):
        convert(Checkpoint.open(folder))


def test_a_file_of_its_own_is_quantized(tmp_path: Path) -> None:
    with open_source(write("ministral-3", tmp_path)) as model:
        assert any("FP8" in note for note in model.notes)
        assert set(model.dropped) == {"vision_encoder.patch_conv.weight", "vision_language_adapter.w_in.weight",
                                      "pre_mm_projector_norm.weight", "patch_merger.merging_layer.weight"}  # fmt: skip


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    tiny.write_json(adapter / "adapter_config.json", {"peft_type": "LORA"})
    tiny.write_safetensors(adapter / "adapter_model.safetensors", {}, "F32")
    with pytest.raises(CheckpointError, match="order of rows"):
        open_source(write("mistral-small", tmp_path), lora=[(adapter, 1.0)])


def edited(folder: Path, file: str, change) -> None:
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("params.json", lambda p: p.pop("n_heads"), r"params\.json lacks n_heads"),
        ("params.json", lambda p: p.update(moe=[]), "moe is"),
        ("params.json", lambda p: p.update(moe={"num_experts": 4}), "has no place|nothing makes"),
        ("params.json", lambda p: p.update(yarn=[]), "yarn is"),
        ("params.json", lambda p: p.update(n_heads="4"), r"params\.json: num_attention_heads is '4'"),
        ("params.json", lambda p: p.update(use_biases=True), "use_biases is set"),
        ("params.json", lambda p: p.update(n_heads=8), r"has shape|wanted|shape"),
        ("tekken.json", lambda t: t["config"].update(pattern="."), "text is cut by '.'"),
        ("tekken.json", lambda t: t["config"].update(default_vocab_size=9999), "do not belong together"),
        ("tekken.json", lambda t: t["config"].update(default_vocab_size="672"), "default_vocab_size"),
        ("tekken.json", lambda t: t["vocab"].pop(300), "token 300 is"),
        ("tekken.json", lambda t: t["vocab"][300].update(token_bytes="?"), "token 300 is"),
        ("tekken.json", lambda t: t["vocab"][300].update(t["vocab"][299], rank=300), "639 of 640 tokens"),
        ("tekken.json", lambda t: t["vocab"][300].update(token_bytes="YSBiIGM="), "no two tokens make"),
        ("tekken.json", lambda t: t.update(vocab=t["vocab"][:-1]), "639 of 640 tokens"),
        ("tekken.json", lambda t: t["special_tokens"][0].update(rank=99), "special token 99 of 32"),
        ("tekken.json", lambda t: t["special_tokens"][0].update(token_str="<s>"), "is number 0 and number 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(file: str, change, message: str, tmp_path: Path) -> None:
    folder = write("mistral-small", tmp_path)
    edited(folder, file, change)
    with pytest.raises((CheckpointError, TokenizerError), match=message):
        convert(Checkpoint.open(folder))


def test_a_silent_params_json_gets_a_length_and_a_note(tmp_path: Path) -> None:
    folder = write("mistral-small", tmp_path)
    edited(folder, "params.json", lambda p: p.pop("max_position_embeddings"))
    model = convert(Checkpoint.open(folder))
    assert model.kv("llama.context_length") == 32768 and any("32768 is taken" in note for note in model.notes)


def test_some_other_params_json_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text('{"learning_rate": 1}')
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        Checkpoint.open(tmp_path)
    edited(write("mistral-small", tmp_path), "params.json", lambda p: p.pop("hidden_dim"))
    with pytest.raises(CheckpointError, match=r"params\.json lacks hidden_dim"):
        convert(Checkpoint.open(tmp_path / "mistral-small"))


@pytest.mark.parametrize("name", ["ministral-3", "mistral-7b"])
def test_a_file_of_its_own_runs(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    done = CliRunner().invoke(main, ["quantize", str(write(name, tmp_path)), "-o", str(out), "--type", "Q8_0"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(main, ["run", str(out), "--raw", "-p", "Hello", "-n", "4", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["n_generated"] >= 1


OWN_NAMES = {
    r"^model\.layers\.": "layers.", r"^model\.embed_tokens": "tok_embeddings", r"^model\.norm": "norm",
    r"^lm_head": "output", r"self_attn\.([qkvo])_proj": r"attention.w\1", "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm", r"block_sparse_moe\.": "feed_forward.",
}  # fmt: skip


def test_mixtrals_of_its_own_are_those_of_transformers(tmp_path: Path) -> None:
    """llama.cpp's converter takes every own model with experts for a Mistral Large 3."""
    name = "mixtral-8x7b-instruct-v0.1"
    case, saved = tiny.load_case(name), tiny.build(name, tmp_path)
    config, folder = case["config"], tmp_path / "own"
    tiny.write_files(case, folder)
    (folder / "config.json").unlink()
    heads = {"wq": config["num_attention_heads"], "wk": config["num_key_value_heads"]}
    params = {"dim": config["hidden_size"], "n_layers": config["num_hidden_layers"], "n_heads": heads["wq"],
              "n_kv_heads": heads["wk"], "hidden_dim": config["intermediate_size"], "norm_eps": config["rms_norm_eps"],
              "head_dim": config["hidden_size"] // heads["wq"], "vocab_size": config["vocab_size"],
              "moe": {"num_experts": config["num_local_experts"], "num_experts_per_tok": 2}}  # fmt: skip
    tiny.write_json(folder / "params.json", params)
    tensors = {}
    for key, ref in Checkpoint.open(saved).tensors.items():
        own, rows = key, ref.raw_rows(0, ref.n_rows)
        for pattern, text in OWN_NAMES.items():
            own = re.sub(pattern, text, own)
        for part, n_head in heads.items():
            if f".{part}." in own:
                rows = rows[np.arange(len(rows)).reshape(n_head, 2, -1).swapaxes(1, 2).reshape(-1)]
        tensors[own] = (ref.shape, rows.tobytes())
    tiny.write_safetensors(folder / "consolidated.safetensors", tensors, case["dtype"])
    wanted, made = (tensor_facts(convert(Checkpoint.open(each)), "f32") for each in (saved, folder))
    assert made == wanted
