"""Adapters: merged as peft merges them, whatever slab; kinds that cannot be merged are named."""

import json
from pathlib import Path

import numpy as np
import pytest

from ggufkit.architectures.source import open_source
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import CheckpointError, InputError
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.formats.lora import merged, open_adapter
from ggufkit.workflows.quantize import quantize
from tests.architectures import tiny

DATA = np.load(Path(__file__).parents[1] / "data" / "lora" / "adapters.npz")
FACTS = json.loads(str(DATA["facts"]))
STEP = 13


def written(folder: Path, name: str, *, config: dict | None = None, names: dict[str, str] | None = None) -> Path:
    """The adapter's folder. `names` gives tensors other names."""
    folder.mkdir(exist_ok=True)
    tiny.write_json(folder / "adapter_config.json", FACTS[name]["config"] | (config or {}))
    tensors = {}
    for key, shape in FACTS[name]["tensors"].items():
        raw = DATA[f"{name}/adapter/{key}"].astype("<f4").tobytes()
        tensors[(names or {}).get(key, key)] = (shape, raw)
    tiny.write_safetensors(folder / "adapter_model.safetensors", tensors, "F32")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.build("qwen3-8b", tmp_path)


@pytest.mark.parametrize("name", FACTS)
def test_weights_are_those_that_peft_merges(name: str, base: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(base)
    out = merged(checkpoint.tensors, open_adapter(written(tmp_path / "adapter", name)))
    for key in FACTS[name]["changed"]:
        whole = out[key].rows(0, out[key].n_rows)
        assert np.allclose(whole[::STEP], DATA[f"{name}/merged/{key}"], rtol=2e-6, atol=2e-7), key
        for start, stop in ((0, 1), (3, 17), (out[key].n_rows - 1, out[key].n_rows)):
            assert np.array_equal(out[key].rows(start, stop), whole[start:stop])
    same = [key for key in checkpoint.tensors if key not in FACTS[name]["changed"]]
    assert all(out[key] is checkpoint.tensors[key] for key in same)


def test_a_factor_weighs_the_adapter(base: Path, tmp_path: Path) -> None:
    folder, name = written(tmp_path / "adapter", "plain"), FACTS["plain"]["changed"][0]
    tensors = Checkpoint.open(base).tensors
    before = tensors[name].rows(0, 8)
    whole, half = (merged(tensors, open_adapter(folder, f))[name].rows(0, 8) for f in (1.0, 0.5))
    assert np.allclose(half - before, (whole - before) / 2, atol=1e-6)
    assert np.array_equal(merged(tensors, open_adapter(folder, 0.0))[name].rows(0, 8), before)


def test_quantizing_with_an_adapter_makes_the_file_of_the_merged_checkpoint(base: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "adapter", "plain")
    with_it, merged_first = tmp_path / "a.gguf", tmp_path / "b.gguf"
    quantize(QuantizeSettings(source=base, output=with_it, recipe="F32", lora=((folder, 1.0),), provenance=False))
    out = merged(Checkpoint.open(base).tensors, open_adapter(folder))
    copy = tmp_path / "merged" / "qwen3-8b"
    tiny.write_files(tiny.load_case("qwen3-8b"), copy)
    tensors = {key: (ref.shape, ref.rows(0, ref.n_rows).tobytes()) for key, ref in out.items()}
    tiny.write_safetensors(copy / "model.safetensors", tensors, "F32")
    quantize(QuantizeSettings(source=copy, output=merged_first, recipe="F32", provenance=False))
    assert with_it.read_bytes() == merged_first.read_bytes()
    with open_source(base) as plain, open_source(base, lora=[(folder, 1.0)]) as model:
        assert plain.source["fingerprint"] != model.source["fingerprint"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is set"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'"),
    ],
)
def test_other_kinds_are_refused(config: dict, message: str, base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_source(base, lora=[(written(tmp_path / "adapter", "plain", config=config), 1.0)])


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    other = {key: key.replace("layers.0", "layers.7") for key in FACTS["plain"]["tensors"]}
    with pytest.raises(CheckpointError, match=r"layers\.7\..* has no place in this model"):
        open_source(base, lora=[(written(tmp_path / "adapter", "plain", names=other), 1.0)])
    llama = tiny.build("llama-1-7b", tmp_path)
    with pytest.raises(CheckpointError, match=r"has shape .* the model wants"):
        open_source(llama, lora=[(written(tmp_path / "adapter", "plain"), 1.0)])


def test_an_adapter_on_a_gguf_is_refused(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    quantize(QuantizeSettings(source=base, output=out, recipe="F16"))
    with pytest.raises(InputError, match="not to a GGUF"):
        open_source(out, lora=[(written(tmp_path / "adapter", "plain"), 1.0)])


@pytest.mark.parametrize("own_tokenizer", [True, False])
def test_embeddings_that_were_resized(own_tokenizer: bool, base: Path, tmp_path: Path) -> None:
    """Tokens were added before the training: peft saves embeddings and head whole, transformers the tokenizer."""
    rows, case = 656 + 16, tiny.load_case("qwen3-8b")
    tensors = {f"base_model.model.{name}": tiny.weights(f"new {name}", [rows, 64])
               for name in ("model.embed_tokens.weight", "lm_head.weight")}  # fmt: skip
    folder = tmp_path / "adapter"
    folder.mkdir()
    tiny.write_json(folder / "adapter_config.json", FACTS["plain"]["config"])
    stored = {key: (list(value.shape), value.tobytes()) for key, value in tensors.items()}
    tiny.write_safetensors(folder / "adapter_model.safetensors", stored, "F32")
    files = json.loads(json.dumps(case["files"]))
    token = files["tokenizer.json"]["added_tokens"][-1]
    files["tokenizer.json"]["added_tokens"].append(token | {"id": 660, "content": "<|new|>"})
    if own_tokenizer:
        tiny.write_files(case | {"files": files}, folder)
        (folder / "config.json").unlink()
    with_it, saved = tmp_path / "a.gguf", tmp_path / "b.gguf"
    quantize(QuantizeSettings(source=base, output=with_it, recipe="F32", lora=((folder, 1.0),), provenance=False))
    copy = tmp_path / "saved" / "qwen3-8b"
    config = case["config"] | {"vocab_size": rows}
    tiny.write_files(case | {"config": config, "files": files if own_tokenizer else case["files"]}, copy)
    whole = {key: (list(ref.shape), ref.rows(0, ref.n_rows).tobytes())
             for key, ref in Checkpoint.open(base).tensors.items()}  # fmt: skip
    whole |= {key.removeprefix("base_model.model."): value for key, value in stored.items()}
    tiny.write_safetensors(copy / "model.safetensors", whole, "F32")
    quantize(QuantizeSettings(source=copy, output=saved, recipe="F32", provenance=False))
    assert with_it.read_bytes() == saved.read_bytes()
    with open_source(base, lora=[(folder, 1.0)]) as model:
        assert ("<|new|>" in model.kv("tokenizer.ggml.tokens")) is own_tokenizer
        assert any("672 rows of embeddings instead of 656" in note for note in model.notes)


def test_an_adapter_with_parts_saved_whole_is_quantized(base: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "adapter", "embeddings and a head saved whole")
    with open_source(base, lora=[(folder, 1.0)]) as model:
        (head,) = [tensor for tensor in model.tensors if tensor.name == "output.weight"]
        wanted = DATA["embeddings and a head saved whole/merged/lm_head.weight"]
        assert np.allclose(head.rows(0, 0, head.n_rows)[::STEP], wanted)


@pytest.mark.parametrize(
    "stated", [[641, 0, 13], [641, 0, 13, 656], [0, 0, 13, 26], {"other": [1, 2, 3, 4]}, ["0"] * 4]
)
def test_numbers_of_trained_tokens_must_fit(stated: object, base: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "adapter", "tokens", config={"trainable_token_indices": stated})
    with pytest.raises(CheckpointError, match=r"trainable_token_indices is .* wanted the numbers of the 4 rows"):
        open_source(base, lora=[(folder, 1.0)])


def test_a_factor_moves_trained_tokens_part_of_the_way(base: Path, tmp_path: Path) -> None:
    folder, name = written(tmp_path / "adapter", "tokens"), "model.embed_tokens.weight"
    tensors = Checkpoint.open(base).tensors
    before = tensors[name].rows(0, 656)
    whole, half = (merged(tensors, open_adapter(folder, f))[name].rows(0, 656) for f in (1.0, 0.5))
    assert np.allclose(half - before, (whole - before) / 2, atol=1e-6)
    assert list(np.flatnonzero((whole != before).any(axis=1))) == [0, 13, 26, 641]
