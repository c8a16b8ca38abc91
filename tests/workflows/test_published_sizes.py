"""Plans of models that everybody downloads, from their config.json alone, against the sizes of published files.

The configs are typed from the models' pages; weights and tokenizers are not here. What a published file has beyond its
tensors is its header: some entries and the vocabulary, with a text and a number or two a token and a merge.
"""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufkit.cli import main
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import CheckpointError
from ggufkit.fitting.encoders import Effort
from ggufkit.recipes.search import Target
from ggufkit.workflows.plan import plan
from ggufkit.workflows.quantize import quantize
from tests.architectures import tiny

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
          "original_max_position_embeddings": 8192}  # fmt: skip


def config(case: str, n_embd: int, n_ff: int, n_layer: int, heads: tuple[int, int], head_dim: int, n_vocab: int,
           tied: bool, **more: object) -> tuple[str, dict]:  # fmt: skip
    """(the parity case that has the family's tokenizer and class, config.json)."""
    n_head, n_head_kv = heads
    return case, {
        "hidden_size": n_embd, "intermediate_size": n_ff, "num_hidden_layers": n_layer, "num_attention_heads": n_head,
        "num_key_value_heads": n_head_kv, "head_dim": head_dim, "vocab_size": n_vocab, "tie_word_embeddings": tied,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16", **more,
    }  # fmt: skip


GEMMA2 = {"query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
          "sliding_window": 4096}  # fmt: skip
LLAMA, QWEN2, QWEN3 = "llama-3.2-1b-instruct", "qwen2.5-7b-instruct", "qwen3-8b"
CONFIGS = {
    "Llama-3.2-1B": config(LLAMA, 2048, 8192, 16, (32, 8), 64, 128256, True, rope_scaling=LLAMA3 | {"factor": 32.0}),
    "Llama-3.2-3B": config(LLAMA, 3072, 8192, 28, (24, 8), 128, 128256, True, rope_scaling=LLAMA3 | {"factor": 32.0}),
    "Llama-3.1-8B": config(LLAMA, 4096, 14336, 32, (32, 8), 128, 128256, False, rope_scaling=LLAMA3),
    "Mistral-7B-v0.2": config("mistral-7b-v0.1", 4096, 14336, 32, (32, 8), 128, 32000, False),
    "Mixtral-8x7B-v0.1": config("mixtral-8x7b-instruct-v0.1", 4096, 14336, 32, (32, 8), 128, 32000, False,
                                num_local_experts=8, num_experts_per_tok=2),
    "TinyLlama-1.1B": config("tinyllama-1.1b", 2048, 5632, 22, (32, 4), 64, 32000, False),
    "Phi-3-mini-4k": config("phi-3-mini-128k-instruct", 3072, 8192, 32, (32, 32), 96, 32064, False),
    "Qwen2.5-0.5B": config(QWEN2, 896, 4864, 24, (14, 2), 64, 151936, True),
    "Qwen2.5-7B": config(QWEN2, 3584, 18944, 28, (28, 4), 128, 152064, False),
    "Qwen3-0.6B": config(QWEN3, 1024, 3072, 28, (16, 8), 128, 151936, True),
    "Qwen3-4B": config(QWEN3, 2560, 9728, 36, (32, 8), 128, 151936, True),
    "Qwen3-8B": config(QWEN3, 4096, 12288, 36, (32, 8), 128, 151936, False),
    "Qwen3-30B-A3B": config("qwen3-30b-a3b", 2048, 6144, 48, (32, 4), 128, 151936, False, num_experts=128,
                            num_experts_per_tok=8, moe_intermediate_size=768, norm_topk_prob=True),
    "gemma-2-2b": config("gemma-2-2b-it", 2304, 9216, 26, (8, 4), 256, 256000, True, **GEMMA2),
    "gemma-2-9b": config("gemma-2-2b-it", 3584, 14336, 42, (16, 8), 256, 256000, True, **GEMMA2),
    "gemma-3-1b": config("gemma-3-1b-it", 1152, 6912, 26, (4, 1), 256, 262144, True, query_pre_attn_scalar=256),
}  # fmt: skip
# bytes of files that were published, by llama.cpp's own rules, with importance or without
PUBLISHED = {
    ("Llama-3.2-1B", "Q4_K_M"): 807_694_464,
    ("Llama-3.2-3B", "Q4_K_M"): 2_019_377_696,
    ("Llama-3.1-8B", "Q4_K_M"): 4_920_739_232,
    ("Mistral-7B-v0.2", "Q4_K_M"): 4_368_439_584,
    ("TinyLlama-1.1B", "Q4_K_M"): 668_788_096,
    ("Qwen2.5-0.5B", "Q4_K_M"): 397_808_192,
    ("Qwen2.5-7B", "Q4_K_M"): 4_683_074_240,
    ("Qwen3-0.6B", "Q8_0"): 639_446_688,
    ("Qwen3-4B", "Q4_K_M"): 2_497_280_256,
    ("Qwen3-8B", "Q4_K_M"): 5_027_783_488,
    ("Qwen3-30B-A3B", "Q4_K_M"): 18_556_686_912,
    ("gemma-2-2b", "Q4_K_M"): 1_708_582_752,
    ("gemma-2-9b", "Q4_K_M"): 5_761_057_728,
    ("gemma-3-1b", "Q4_K_M"): 806_058_240,
}


def config_only(name: str, root: Path) -> Path:
    case_name, values = CONFIGS[name]
    case, folder = tiny.load_case(case_name), root / name
    facts = {key: case["config"][key] for key in ("architectures", "model_type")}
    tiny.write_files(case | {"config": facts | values}, folder)
    return folder


# bytes of a header: the vocabulary, mostly; what a published file has beyond its tensors
HEADERS = {"Llama": 7_836_000, "Qwen": 5_956_000, "gemma-2": 6_052_000, "gemma-3": 6_533_000, "Mistral": 735_500,
           "TinyLlama": 1_709_500}  # fmt: skip
SLACK = 30_000  # entries that some have and others do not


@pytest.mark.parametrize(("name", "kind"), PUBLISHED)
def test_sizes_are_those_of_published_files(name: str, kind: str, tmp_path: Path) -> None:
    report = plan(config_only(name, tmp_path), kind)
    planned = sum(row.nbytes for row in report.tensors) + next(n for key, n in HEADERS.items() if name.startswith(key))
    published = PUBLISHED[name, kind]
    assert abs(planned - published) < min(SLACK, published / 1000)
    assert any("holds no weights" in note for note in report.notes)


def test_an_older_file_follows_older_rules(tmp_path: Path) -> None:
    """Phi-3's Q4_K_M of April 2024 has every attn_qkv as Q5_K; today half of them are Q6_K, half Q4_K: 0.15 % more."""
    published = 2_393_231_072
    rows = plan(config_only("Phi-3-mini-4k", tmp_path), "Q4_K_M").tensors
    q5_k = sum(row.shape[0] * row.shape[1] // 256 * 176 for row in rows if "attn_qkv" in row.name)
    planned = sum(q5_k if "blk.0.attn_qkv" in row.name else 0 if "attn_qkv" in row.name else row.nbytes for row in rows)
    assert abs(planned + 737_500 - published) < SLACK


def test_headers_alone_say_the_same(tmp_path: Path) -> None:
    """A checkpoint whose weights are a hole of the right size."""
    name = "Qwen2.5-0.5B"
    folder = config_only(name, tmp_path)
    planned = plan(folder)
    shapes = {"model.embed_tokens.weight": [151936, 896], "model.norm.weight": [896]}
    for i in range(24):
        layer = f"model.layers.{i}."
        for part, n in (("q", 896), ("k", 128), ("v", 128)):
            shapes |= {f"{layer}self_attn.{part}_proj.weight": [n, 896], f"{layer}self_attn.{part}_proj.bias": [n]}
        shapes |= {f"{layer}self_attn.o_proj.weight": [896, 896], f"{layer}mlp.down_proj.weight": [896, 4864]}
        shapes |= {f"{layer}mlp.{part}_proj.weight": [4864, 896] for part in ("gate", "up")}
        shapes |= {f"{layer}{part}_layernorm.weight": [896] for part in ("input", "post_attention")}
    header, end = {}, 0
    for key, shape in shapes.items():
        nbytes = 2 * math.prod(shape)
        header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + nbytes]}
        end += nbytes
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    with_headers = plan(folder)
    assert {(row.name, row.type, row.nbytes) for row in planned.tensors} == {
        (row.name, row.type, row.nbytes) for row in with_headers.tensors
    }
    assert planned.file_nbytes == with_headers.file_nbytes and planned.source_nbytes == with_headers.source_nbytes


def test_the_command_needs_no_weights_but_quantize_does(tmp_path: Path) -> None:
    folder = config_only("Qwen3-0.6B", tmp_path)
    done = CliRunner().invoke(main, ["plan", str(folder), "--type", "Q8_0", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["arch"] == "qwen3"
    with pytest.raises(CheckpointError, match=r"no \.safetensors file"):
        quantize(QuantizeSettings(source=folder, output=tmp_path / "out.gguf", recipe="Q8_0"))
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="pickled weights"):
        plan(folder)


def test_an_index_says_which_layers_guess_further_tokens(tmp_path: Path) -> None:
    """Without an index, config.json says it."""
    case = tiny.load_case("qwen3.5-4b")
    folder = tmp_path / "qwen3.5-4b"
    text = case["config"].get("text_config", case["config"])
    tiny.write_files(case | {"config": case["config"] | {"text_config": text | {"mtp_num_hidden_layers": 1}}}, folder)
    without = {row.name for row in plan(folder, "F16").tensors}
    weight_map = dict.fromkeys(case["source"], "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    listed = {row.name for row in plan(folder, "F16").tensors}
    assert without == listed and any(name.startswith("blk.2.nextn") for name in listed)
    assert not any(name.startswith("blk.2.") for name in (row.name for row in plan(folder, "F16", mtp=False).tensors))


def test_eight_cores_fit_8x7b_in_a_night_and_6_gib_types_included(tmp_path: Path) -> None:
    source = config_only("Mixtral-8x7B-v0.1", tmp_path)
    said = plan(source, threads=8, max_memory=6 << 30, target=Target(nbytes=24 << 30), effort=Effort.BALANCED).fitting
    assert said is not None and not said.are_measured, "there are no weights to try"
    assert (said.n_readings, said.memory_nbytes <= 6 << 30) == (1, True)
    assert "types" in said.seconds and sum(said.seconds.values()) <= 6 * 3600
