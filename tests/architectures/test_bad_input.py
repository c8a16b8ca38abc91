"""One clear error for each kind of bad checkpoint; never another exception."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from ggufkit.architectures import FAMILIES, convert, find_family
from ggufkit.errors import CheckpointError, GgufkitError
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.formats.gguf_writer import header_bytes
from ggufkit.formats.safetensors import open_safetensors
from tests.architectures import tiny
from tests.architectures.emit import tensor_facts
from tests.architectures.mutate import damaged

MIXTRAL, QWEN_MOE, LLAMA = "mixtral-8x7b-instruct-v0.1", "qwen3-30b-a3b", "llama-1-7b"


def build(name, folder, *, config=None, change=None, dtype=None):
    """Checkpoint of a case with entries of config.json changed and tensors edited."""
    case = tiny.load_case(name)
    case["config"] |= config or {}
    tiny.write_files(case, folder / name)
    tiny.write_weights(case["source"], dtype or case["dtype"], folder / name, change=change)
    return Checkpoint.open(folder / name)


def refused(checkpoint, message):
    with pytest.raises(CheckpointError, match=message):
        convert(checkpoint)


def test_unknown_architecture_lists_the_known(tmp_path):
    refused(
        build(LLAMA, tmp_path, config={"architectures": ["GrokForCausalLM"]}), "'GrokForCausalLM'.*OlmoeForCausalLM"
    )


@pytest.mark.parametrize("name", tiny.CASES)
def test_a_model_type_is_enough_where_no_class_is_named(name, tmp_path):
    checkpoint = Checkpoint.open(tiny.build(name, tmp_path))
    family = find_family(checkpoint)
    for value in (None, []):
        config = dict(checkpoint.config) | {"architectures": value}
        assert find_family(dataclasses.replace(checkpoint, config=config)) is family


@pytest.mark.parametrize("model_type", [None, "", "for", 5, ["llama"], "gpt2"])
def test_a_model_type_that_nobody_knows_is_refused(model_type, tmp_path):
    refused(build(LLAMA, tmp_path, config={"architectures": None, "model_type": model_type}), "None is not known")


def test_a_class_of_somebodys_own_before_the_real_one_is_noted(tmp_path):
    model = convert(build(LLAMA, tmp_path, config={"architectures": ["MyWrapper", "LlamaForCausalLM"]}))
    assert model.notes == ("config.json: architectures begins with 'MyWrapper'; read as LlamaForCausalLM",)


@pytest.mark.parametrize("name", ["LlamaModel", "LlamaForSequenceClassification", "LlamaForTokenClassification"])
def test_a_model_with_another_head_says_what_to_use(name, tmp_path):
    refused(
        build(LLAMA, tmp_path, config={"architectures": [name]}),
        f"{name}.* predicts no tokens.*Use the checkpoint of LlamaForCausalLM",
    )


def test_leftover_tensor_is_named(tmp_path):
    extra = "model.layers.0.self_attn.q_norm.weight"
    refused(
        build(LLAMA, tmp_path, change=lambda t: t.update({extra: t["model.norm.weight"]})),
        f"{re.escape(extra)} has no place in a llama file of 2 layers",
    )


def test_layer_beyond_the_last_is_named(tmp_path):
    refused(build(LLAMA, tmp_path, config={"num_hidden_layers": 1}), r"model\.layers\.1\..* has no place")


def test_absent_tensor_is_named(tmp_path):
    refused(
        build(LLAMA, tmp_path, change=lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        r"no tensor of the source gives blk\.1\.ffn_up\.weight",
    )


def test_absent_output_is_an_error_only_where_embeddings_are_not_tied(tmp_path):
    def without_output(tensors):
        del tensors["lm_head.weight"]

    refused(build(LLAMA, tmp_path, change=without_output), r"no tensor of the source gives output\.weight")
    tied = build(LLAMA, tmp_path / "tied", config={"tie_word_embeddings": True}, change=without_output)
    assert "output.weight" not in {tensor.name for tensor in convert(tied).tensors}


def test_missing_expert_is_named(tmp_path):
    gone = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    refused(build(MIXTRAL, tmp_path, change=lambda t: t.pop(gone)), f"layer 1 lacks {re.escape(gone)}")


def test_expert_too_many_is_named(tmp_path):
    refused(build(MIXTRAL, tmp_path, config={"num_local_experts": 3}), r"experts\.3\..*config\.json says 3 experts")


def test_wrong_shape_is_named(tmp_path):
    refused(
        build(LLAMA, tmp_path, config={"intermediate_size": 128}),
        r"down_proj\.weight: shape \[64, 96\], config\.json says \[64, 128\]",
    )


def test_fp8_without_its_scales_is_refused(tmp_path):
    gone = "model.layers.1.self_attn.o_proj.weight_scale_inv"
    case = tiny.load_case("deepseek-r1")
    tiny.write_files(case, tmp_path)
    tiny.write_weights(case["source"], "FP8", tmp_path, change=lambda t: t.pop(gone))
    refused(Checkpoint.open(tmp_path), r"o_proj\.weight is F8_E4M3 and has no .*o_proj\.weight_scale_inv beside it")


@pytest.mark.parametrize("dtype", ["I8", "U8"])
def test_quantized_weights_are_refused(dtype, tmp_path):
    case = tiny.load_case(LLAMA)
    tiny.write_files(case, tmp_path)
    tensors = {name: (shape, bytes(int(np.prod(shape)))) for name, shape in case["source"].items()}
    tiny.write_safetensors(tmp_path / "model.safetensors", tensors, dtype)
    refused(Checkpoint.open(tmp_path), f"is {dtype}, wanted F32, F16, BF16, F64")


@pytest.mark.parametrize("left", [{"quant_method": "bitsandbytes", "load_in_4bit": True}, {}, "gptq", None, []])
def test_a_quantization_config_left_over_plain_floats_changes_nothing(left, tmp_path):
    model = convert(build(LLAMA, tmp_path, config={"quantization_config": left}))
    assert model.tensors and not model.notes


def test_the_method_is_named_where_the_weights_are_quantized(tmp_path):
    case = tiny.load_case(LLAMA)
    case["config"]["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    tiny.write_files(case, tmp_path)
    tensors = {name: (shape, bytes(4 * int(np.prod(shape)))) for name, shape in case["source"].items()}
    tiny.write_safetensors(tmp_path / "model.safetensors", tensors, "I32")
    refused(Checkpoint.open(tmp_path), "is I32, wanted .*config.json says 'gptq'.*Use the original weights")


@pytest.mark.parametrize("name", ["model.embeddings.position_ids", "model.layers.0.self_attn.rotary_emb.cos_cached"])
def test_buffers_are_dropped_whatever_their_type(name, tmp_path):
    checkpoint = build(LLAMA, tmp_path)
    tiny.write_safetensors(tmp_path / "buffer.safetensors", {name: ((8,), bytes(64))}, "I64")
    ref = open_safetensors(tmp_path / "buffer.safetensors").tensors[name]
    checkpoint = dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, name: ref})
    assert list(convert(checkpoint).dropped) == [name]


def test_whole_numbers_of_the_config_may_be_written_as_floats(tmp_path):
    whole = convert(build(LLAMA, tmp_path))
    config = tiny.load_case(LLAMA)["config"]
    floats = {key: float(value) for key, value in config.items() if type(value) is int}
    assert convert(build(LLAMA, tmp_path / "floats", config=floats)).metadata == whole.metadata
    refused(build(LLAMA, tmp_path / "half", config={"hidden_size": 64.5}), "hidden_size is 64.5, wanted a whole number")


def test_a_flood_of_notes_is_cut(tmp_path):
    checkpoint = build(LLAMA, tmp_path)
    tiny.write_json(checkpoint.path / "added_tokens.json", {f"<{i}>": "x" for i in range(50)})
    notes = convert(checkpoint).notes
    assert len(notes) == 21 and notes[-1] == "and 30 notes more"


def test_a_stored_head_beside_a_tied_one_is_kept_with_a_note(tmp_path):
    model = convert(build(LLAMA, tmp_path, config={"tie_word_embeddings": True}))
    assert "output.weight" in {tensor.name for tensor in model.tensors}
    assert "lm_head.weight is stored although" in model.notes[0]


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("num_hidden_layers", None, "num_hidden_layers is None, wanted a whole number"),
        ("num_attention_heads", 0, "num_attention_heads is 0"),
        ("hidden_size", "64", "hidden_size is '64'"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps is nan"),
        ("rope_scaling", [1], r"rope_scaling is \[1\]"),
        ("rope_scaling", {"type": 5}, "RoPE scaling '5' is not known"),
        ("rope_theta", 0, "rope_theta is 0, wanted a number above 0"),
        ("rope_local_base_freq", 0, "rope_local_base_freq is 0, wanted a number above 0"),
        ("rope_scaling", {"rope_type": "linear", "factor": 0}, "factor of the RoPE scaling is 0, wanted a number"),
        ("rope_scaling", {"rope_type": "spiral", "factor": 2.0}, "RoPE scaling 'spiral' is not known"),
        ("rope_scaling", {"rope_type": "llama3", "low_freq_factor": 4.0, "high_freq_factor": 1.0}, "llama3"),
        ("num_attention_heads", 3, "does not divide among 3 heads"),
        ("vocab_size", 2**40, "vocab_size is 1099511627776"),
    ],
)
def test_bad_config_entry_is_named(entry, value, message, tmp_path):
    refused(build(LLAMA, tmp_path, config={entry: value}), message)


@pytest.mark.parametrize("rope", [{"full_attention": 5}, {"rope_type": None}, {"type": None}, {}])
def test_a_rope_scaling_that_says_nothing_is_none(rope, tmp_path):
    plain = convert(build(LLAMA, tmp_path))
    assert convert(build(LLAMA, tmp_path / "odd", config={"rope_scaling": rope})).metadata == plain.metadata


def test_dropped_tensors_are_listed(tmp_path):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    checkpoint = build(LLAMA, tmp_path, change=lambda t: t.update({name: ((4,), bytes(8))}))
    assert list(convert(checkpoint).dropped) == [name]


def test_experts_fused_by_transformers_5_make_the_same_stacks(tmp_path):
    """(n_expert, 2 n_ff, n_embd) gate_up_proj and (n_expert, n_embd, n_ff) down_proj, the layout in memory."""

    def fuse(tensors):
        for layer in range(2):
            prefix = f"model.layers.{layer}.mlp.experts"
            raw = {part: [] for part in ("gate_proj", "up_proj", "down_proj")}
            for i in range(4):
                for part, found in raw.items():
                    found.append(tensors.pop(f"{prefix}.{i}.{part}.weight")[1])
            both = b"".join(g + u for g, u in zip(raw["gate_proj"], raw["up_proj"], strict=True))
            tensors[f"{prefix}.gate_up_proj"] = ((4, 64, 64), both)
            tensors[f"{prefix}.down_proj"] = ((4, 64, 32), b"".join(raw["down_proj"]))

    fused = tensor_facts(convert(build(QWEN_MOE, tmp_path, change=fuse)), "bf16")
    reference = tiny.load_case(QWEN_MOE)["gguf"]["bf16"]["tensors"]
    assert {name: list(facts.values()) for name, facts in fused.items()} == reference


def test_a_tensor_given_twice_is_named(tmp_path):
    def both_ways(tensors):
        tensors["model.layers.0.mlp.experts.down_proj"] = ((4, 64, 32), bytes(4 * 64 * 32 * 2))

    refused(build(QWEN_MOE, tmp_path, change=both_ways), r"two source tensors make blk\.0\.ffn_down_exps\.weight")


def test_a_model_card_that_is_no_yaml_is_a_note(tmp_path):
    checkpoint = build(LLAMA, tmp_path)
    (checkpoint.path / "README.md").write_text("---\nlicense: [\n---\n")
    assert "README.md: its front matter is not YAML" in convert(checkpoint).notes[0]


def sampling(tmp_path, **entries):
    checkpoint = build(LLAMA, tmp_path)
    checkpoint = dataclasses.replace(checkpoint, generation_config=entries, notes=[])
    model = convert(checkpoint)
    header_bytes(model.metadata, [], 32)
    return {kv.key: kv.value for kv in model.metadata if "sampling" in kv.key}, model.notes


def test_whole_numbers_of_the_generation_config_may_be_written_as_floats(tmp_path):
    found, notes = sampling(tmp_path, top_k=20.0, temperature=1, top_p=None)
    assert found == {"general.sampling.top_k": 20, "general.sampling.temp": 1.0} and not notes
    assert type(found["general.sampling.top_k"]) is int


@pytest.mark.parametrize("value", ["20", 20.5, True, [20], {"a": 20}, 1e400, float("nan"), 2**40])
def test_odd_settings_of_the_generation_config_are_left_out_with_a_note(value, tmp_path):
    found, notes = sampling(tmp_path, top_k=value, top_p=0.5)
    assert found == {"general.sampling.top_p": 0.5}
    assert len(notes) == 1 and "generation_config.json: top_k is" in notes[0]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("models--org--Tiny-Llama-7B/snapshots/" + 40 * "a", "Tiny Llama 7B"),
        (40 * "0123abcdef"[:1], "llama"),
        ("Tiny-Llama-7B/sub/..", "Tiny Llama 7B"),
    ],
)
def test_a_model_is_not_called_by_a_revision_or_two_dots(place, name, tmp_path):
    checkpoint = build(LLAMA, tmp_path)
    path = tmp_path / place
    (tmp_path / place.replace("/..", "")).mkdir(parents=True)
    checkpoint = dataclasses.replace(checkpoint, path=path)
    for file in (tmp_path / LLAMA).iterdir():
        if file.name != "README.md":
            (path / file.name).symlink_to(file)
    assert convert(checkpoint).kv("general.name") == name


@pytest.mark.parametrize("stated", [7, "", "./out", "..", "/data/m", "C:\\m"])
def test_a_path_in_the_config_names_no_model(stated, tmp_path):
    """`_name_or_path` is what transformers was given, which may be anybody's folder."""
    assert convert(build(LLAMA, tmp_path, config={"_name_or_path": stated})).kv("general.name") == "Llama 1 7b"


FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "generation_config.json")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_json_gives_a_model_or_one_of_our_errors(seed, tmp_path):
    """What is accepted can also be written: every entry has the type that it claims."""
    rng = np.random.default_rng(seed)
    for name in tiny.CASES:
        if name == "code-llama-7b-hf":
            continue  # the same files as llama-1-7b in 32,016 rows
        folder = tiny.build(name, tmp_path)
        present = [file for file in FILES if (folder / file).exists()]
        for _ in range(3):
            path = folder / present[rng.integers(len(present))]
            whole = path.read_text(encoding="utf-8")
            value, how = damaged(json.loads(whole), rng)
            path.write_text(json.dumps(value), encoding="utf-8")
            try:
                header_bytes(convert(Checkpoint.open(folder)).metadata, [], 32)
            except GgufkitError as error:
                assert "\n" not in str(error), how
            except Exception as error:
                raise AssertionError(f"{path.name}: {how}: {error!r}") from error
            path.write_text(whole, encoding="utf-8")


def test_table_entries_are_short():
    """A family is data: under 30 lines of source each."""
    from ggufkit.architectures import families

    source = "".join(path.read_text() for path in Path(families.__file__).parent.glob("*.py"))
    entries = re.findall(
        r"^[A-Z0-9_]+ = (?:Family|replace)\(\n(.*?)^\)(?:  # fmt: skip)?$", source, flags=re.MULTILINE | re.DOTALL
    )
    assert len(entries) == len(FAMILIES)
    assert max(entry.count("\n") for entry in entries) < 30
