"""Adapters as GGUF: entries and tensors as llama.cpp's converter makes them; added to a model they give its logits."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import ggufkit
from ggufkit.architectures import convert
from ggufkit.cli import main
from ggufkit.errors import CheckpointError, GgufError, UsageError
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.lora import open_adapter
from ggufkit.formats.tensor import TensorRef
from ggufkit.runtime.engine import Engine
from ggufkit.workflows.convert_lora import convert_lora
from tests.architectures import tiny
from tests.architectures.emit import write_gguf
from tests.data.lora.convert import CASES, PLAIN, RANK, experts, made, of_peft, write, write_adapter

FACTS = json.loads((Path(__file__).parents[1] / "data" / "lora" / "converted.json").read_text())
IDS = np.array([5, 300, 41, 77, 200, 9, 310, 123], dtype=np.int32)


@pytest.mark.parametrize("name", CASES)
def test_files_are_the_converters(name: str, tmp_path: Path) -> None:
    base, adapter = write(name, tmp_path)
    for weights in base.glob("*.safetensors*"):
        weights.unlink()  # config.json is enough
    convert_lora(adapter, tmp_path / "adapter.gguf", base=base)
    file = GgufFile.open(tmp_path / "adapter.gguf")
    entries = {kv.key: {"type": [kv.type.name], "value": kv.value} for kv in file.metadata.values()}
    assert entries == FACTS[name]["kv"]
    assert list(entries) == list(FACTS[name]["kv"])
    assert {t.name: [t.dtype, list(reversed(t.shape)), digest(t)] for t in file.tensors} == FACTS[name]["tensors"]


def digest(tensor: TensorRef) -> str:
    return hashlib.sha256(tensor.raw_rows(0, tensor.n_rows).tobytes()).hexdigest()


def logits(path: Path, adapters=()) -> np.ndarray:
    with Engine.open(path, n_ctx=64, threads=1, use_extra_bufts=False, flash_attn=False, adapters=adapters) as engine:
        engine.decode(IDS, 0, logits=(np.arange(len(IDS)) == len(IDS) - 1).astype(np.int8))
        return engine.logits(1).copy()[0]


def files(base: Path, adapter: Path, factor: float = 1.0) -> tuple[Path, Path]:
    """F32 files of the base, and of the base with the adapter merged."""
    out = []
    for name, adapters in (("plain", []), ("merged", [open_adapter(adapter, factor)])):
        model = convert(Checkpoint.open(base), adapters=adapters)
        out.append(write_gguf(adapter.parent / f"{name}.gguf", model.metadata, model.tensors))
    return out[0], out[1]


def require_alike(base: Path, adapter: Path, factor: float = 1.0) -> None:
    """llama.cpp with the adapter computes what it computes of the merged weights, and not what it does without."""
    file = adapter.parent / "adapter.gguf"
    convert_lora(adapter, file, base=base)
    plain, merged = files(base, adapter, factor)
    wanted, without, got = logits(merged), logits(plain), logits(plain, [(file, factor)])
    change = np.linalg.norm(wanted - without)
    assert change > 1e-2 * np.linalg.norm(without)
    assert np.linalg.norm(got - wanted) < 1e-3 * change


@pytest.mark.parametrize("name", CASES)
def test_adding_it_gives_what_merging_gives(name: str, tmp_path: Path) -> None:
    require_alike(*write(name, tmp_path))


@pytest.mark.parametrize("config", [{"use_rslora": True}, {"alpha_pattern": {"q_proj": 12, "layers.0.mlp.up_proj": 2}}])
def test_scales_of_other_kinds_are_kept(config: dict, tmp_path: Path) -> None:
    """The converter writes lora_alpha whatever else the adapter says."""
    base = tiny.build("qwen3-8b", tmp_path)
    require_alike(base, write_adapter(tmp_path / "adapter", *made("qwen3-8b", "(q|v|up)_proj", **config)))


@pytest.mark.parametrize("name", ["rank-stabilized", "patterns"])
def test_adapters_of_peft(name: str, tmp_path: Path) -> None:
    require_alike(tiny.build("qwen3-8b", tmp_path), write_adapter(tmp_path / "adapter", *of_peft(name)), factor=0.5)


def embedding_adapter(tmp_path: Path) -> Path:
    config, tensors = of_peft("embeddings and a head saved whole")
    kept = {key: value for key, value in tensors.items() if "lm_head" not in key}
    return write_adapter(tmp_path / "adapter", {**config, "modules_to_save": None}, kept)


def test_embeddings(tmp_path: Path) -> None:
    require_alike(tiny.build("qwen3-8b", tmp_path), embedding_adapter(tmp_path))


def test_rank_stabilized_alpha(tmp_path: Path) -> None:
    base = tiny.build("qwen3-8b", tmp_path)
    adapter = write_adapter(tmp_path / "adapter", *made("qwen3-8b", "q_proj", use_rslora=True))
    report = convert_lora(adapter, tmp_path / "adapter.gguf", base=base)
    assert report.alpha == 6 * math.sqrt(RANK) and report.ranks == (RANK, RANK) and report.n_adapted == 2


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_types(kind: str, tmp_path: Path) -> None:
    base, adapter = write("qwen3, of peft", tmp_path)
    convert_lora(adapter, tmp_path / "adapter.gguf", base=base, type=kind)
    assert {t.dtype for t in GgufFile.open(tmp_path / "adapter.gguf").tensors} == {kind}
    with pytest.raises(UsageError, match="Known: F32, F16, BF16"):
        convert_lora(adapter, tmp_path / "adapter.gguf", base=base, type="Q4_K")


def refused(message: str, base: Path, adapter: Path, output: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert_lora(adapter, output, base=base)
    assert not output.exists()


def test_what_llama_cpp_cannot_add_is_refused_with_what_to_do(tmp_path: Path) -> None:
    base, out = tiny.build("qwen3-8b", tmp_path), tmp_path / "adapter.gguf"
    for name, message in (
        ("dora", "DoRA.*Merge it"),
        ("embeddings and a head saved whole", "saved whole.*Merge it"),
        ("tokens", "saved whole.*Merge it"),
    ):
        refused(message, base, write_adapter(tmp_path / name, *of_peft(name)), out)
    other = write_adapter(tmp_path / "other", *made("llama-2-70b-chat-hf", "q_proj"))
    refused(r"q_proj\.weight: shape", base, other, out)
    refused("its base model some/model is not here", None, other, out)
    config, tensors = made("qwen3-8b", "q_proj")
    moved = {key.replace("layers.1", "layers.7"): value for key, value in tensors.items()}
    refused("has no place", base, write_adapter(tmp_path / "moved", config, moved), out)
    half = {key: value for key, value in tensors.items() if "lora_B" not in key}
    refused("lacks lora_A or lora_B", base, write_adapter(tmp_path / "half", config, half), out)
    wide = {key: value[:, :2] if "lora_B" in key else value for key, value in tensors.items()}
    refused("do not fit together", base, write_adapter(tmp_path / "wide", config, wide), out)
    nothing = write_adapter(tmp_path / "nothing", {**config, "lora_alpha": 0}, tensors)
    refused("adds nothing", base, nothing, out)


def test_experts_must_all_be_there(tmp_path: Path) -> None:
    parts = {"up_proj": ("n_ff", "n_embd")}
    adapter = write_adapter(tmp_path / "adapter", *experts("qwen3-30b-a3b", parts))
    refused(
        r"lacks model\.layers\.0\.mlp\.experts\.0\.down_proj",
        tiny.build("qwen3-30b-a3b", tmp_path),
        adapter,
        tmp_path / "adapter.gguf",
    )


def test_embeddings_that_make_the_logits_are_refused(tmp_path: Path) -> None:
    adapter = embedding_adapter(tmp_path)
    base = tiny.build("qwen3-8b", tmp_path)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    refused("make the logits", base, adapter, tmp_path / "adapter.gguf")


def test_a_head_that_the_family_ties_is_refused(tmp_path: Path) -> None:
    config, tensors = made("gemma-3-4b-it", "language_model.*q_proj")
    tensors["base_model.model.lm_head.lora_A.weight"] = np.zeros((RANK, 64), dtype=np.float32)
    tensors["base_model.model.lm_head.lora_B.weight"] = np.zeros((480, RANK), dtype=np.float32)
    adapter = write_adapter(tmp_path / "adapter", config, tensors)
    refused("embeddings make the logits", tiny.build("gemma-3-4b-it", tmp_path), adapter, tmp_path / "adapter.gguf")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """(model, adapter), both GGUF."""
    base, adapter = write("qwen3, of peft", tmp_path)
    convert_lora(adapter, tmp_path / "adapter.gguf", base=base)
    return files(base, adapter)[0], tmp_path / "adapter.gguf"


def test_run_adds_it(pair: tuple[Path, Path]) -> None:
    model, adapter = pair
    say = ["run", str(model), "--raw", "-p", "Hello", "-n", "8", "--temp", "0", "--json"]
    without, none, full = (
        json.loads(CliRunner().invoke(main, [*say, *more]).stdout)["text"]
        for more in ([], ["--lora", f"{adapter}=0"], ["--lora", f"{adapter}=3"])
    )
    assert without == none != full


def test_python_adds_it(pair: tuple[Path, Path]) -> None:
    model, adapter = pair
    with ggufkit.load(model, n_ctx=64) as plain, ggufkit.load(model, n_ctx=64, lora=[(adapter, 3.0)]) as adapted:
        answers = [str(each.generate("Hello", max_tokens=8, temperature=0)) for each in (plain, adapted)]
    assert answers[0] != answers[1]


def test_a_file_that_is_no_adapter_of_the_model_is_refused_before_llama_cpp_sees_it(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    model, adapter = pair

    def say(message: str, path: Path) -> None:
        with pytest.raises(GgufError, match=message):
            logits(model, [(path, 1.0)])

    say("is no LoRA adapter", model)
    with pytest.raises(UsageError, match="Write it as a GGUF first"):
        logits(model, [(tmp_path / "my-adapter", 1.0)])
    base, other = write("llama", tmp_path / "llama")
    convert_lora(other, tmp_path / "llama.gguf", base=base)
    say("is an adapter of 'llama' models", tmp_path / "llama.gguf")
    with pytest.raises(UsageError, match="given twice"):
        logits(model, [(adapter, 1.0), (adapter, 2.0)])
    _, tensors = made("qwen3-8b", "q_proj")
    larger = tiny.build("qwen3-8b", tmp_path / "larger")
    facts = json.loads((larger / "config.json").read_text())
    (larger / "config.json").write_text(json.dumps(facts | {"head_dim": 64}))
    doubled = {key: np.repeat(v, 2, axis=0) if "lora_B" in key else v for key, v in tensors.items()}
    convert_lora(write_adapter(tmp_path / "doubled", PLAIN, doubled), tmp_path / "doubled.gguf", base=larger)
    say("has shape", tmp_path / "doubled.gguf")


def test_the_command(tmp_path: Path) -> None:
    base, adapter = write("qwen3, of peft", tmp_path)
    out = tmp_path / "adapter.gguf"
    say = ["convert-lora", str(adapter), "--base", str(base), "-o", str(out)]
    done = CliRunner().invoke(main, say)
    assert done.exit_code == 0 and "8 weights adapted" not in done.stdout and "4 weights adapted, rank 4" in done.stdout
    assert CliRunner().invoke(main, say).exit_code == 1
    done = CliRunner().invoke(main, [*say, "--force", "--json"])
    assert json.loads(done.stdout)["schema"] == "ggufkit/convert-lora@1"


def test_the_base_that_the_adapter_names_is_found(tmp_path: Path) -> None:
    base, adapter = write("qwen3, of peft", tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    assert convert_lora(adapter, tmp_path / "adapter.gguf").arch == "qwen3"
