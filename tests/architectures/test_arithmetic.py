"""A config that declares other arithmetic than llama.cpp's graph computes is refused by name, or noted."""

import dataclasses
import json
from pathlib import Path

import pytest

from ggufkit.architectures import convert, find_family
from ggufkit.architectures.arithmetic import COMMON, INERT
from ggufkit.errors import CheckpointError
from ggufkit.formats.checkpoint import Checkpoint
from tests.architectures import tiny

LLAMA = "llama-1-7b"


def load(name, folder, drop=(), **config):
    """The model of a case whose config.json is changed."""
    path = tiny.build(name, folder)
    found = json.loads((path / "config.json").read_text()) | config
    (path / "config.json").write_text(json.dumps({key: value for key, value in found.items() if key not in drop}))
    return convert(Checkpoint.open(path))


def case_of(architecture):
    return next(name for name in tiny.CASES if tiny.load_case(name)["config"]["architectures"] == [architecture])


REFUSED = [
    ("LlamaForCausalLM", {"hidden_act": "relu"}, "hidden_act is 'relu', but llama.cpp's llama graph .*'silu'"),
    ("LlamaForCausalLM", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("LlamaForCausalLM", {"hidden_act": ["silu"]}, "hidden_act is"),
    ("Qwen3ForCausalLM", {"hidden_act": "relu2"}, "hidden_act is 'relu2', but llama.cpp's qwen3 graph"),
    ("PhiForCausalLM", {"hidden_act": "gelu"}, "hidden_act is 'gelu'.*'gelu_new'"),
    ("LlamaForCausalLM", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    ("LlamaForCausalLM", {"final_logit_softcapping": 30}, "final_logit_softcapping is 30"),
    ("LlamaForCausalLM", {"embedding_multiplier": 12.0}, "embedding_multiplier is 12.0"),
    ("LlamaForCausalLM", {"logits_scaling": 8.0}, "logits_scaling is 8.0"),
    ("LlamaForCausalLM", {"logit_scale": 0.0625}, "logit_scale is 0.0625"),
    ("LlamaForCausalLM", {"use_qk_norm": True}, "use_qk_norm is True"),
    ("LlamaForCausalLM", {"clip_qkv": 8.0}, "clip_qkv is 8.0"),
    ("LlamaForCausalLM", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ("LlamaForCausalLM", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ("LlamaForCausalLM", {"no_rope_layers": [1, 0]}, r"no_rope_layers is \[1, 0\]"),
    ("LlamaForCausalLM", {"layer_types": ["full_attention", "linear_attention"]}, "layer_types is 'linear_attention'"),
    ("LlamaForCausalLM", {"position_embedding_type": "alibi"}, "position_embedding_type is 'alibi'"),
    ("LlamaForCausalLM", {"pruned_heads": {"0": [1]}}, "pruned_heads is"),
    ("PhiForCausalLM", {"qk_layernorm": True}, "qk_layernorm is True"),
    ("PhiForCausalLM", {"num_key_value_heads": 2}, "num_key_value_heads 2.*a Phi-2 has|shape"),
    ("Qwen3MoeForCausalLM", {"norm_topk_prob": False}, "norm_topk_prob is False, but .* computes True"),
    ("Qwen2MoeForCausalLM", {"norm_topk_prob": True}, "norm_topk_prob is True"),
    ("OlmoeForCausalLM", {"norm_topk_prob": True}, "norm_topk_prob is True"),
    ("OlmoeForCausalLM", {"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-06"),
    ("MixtralForCausalLM", {"scoring_func": "sigmoid"}, "scoring_func is 'sigmoid'"),
    ("MixtralForCausalLM", {"num_experts_per_tok": 9}, "num_experts_per_tok is 9, wanted at most the 4 experts"),
    ("LlamaForCausalLM", {"num_key_value_heads": 3}, "num_key_value_heads is 3, wanted a divisor"),
    ("LlamaForCausalLM", {"head_dim": 1}, "head_dim is 1, wanted an even number"),
    ("LlamaForCausalLM", {"head_dim": 15}, "head_dim is 15, wanted an even number"),
    ("PhiForCausalLM", {"partial_rotary_factor": 0.01}, "partial_rotary_factor 0.01 gives 0"),
    ("PhiForCausalLM", {"partial_rotary_factor": 2.0}, "partial_rotary_factor 2.0 gives"),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "config", "wanted"), REFUSED)
def test_other_arithmetic_is_refused_by_name(architecture, config, wanted, tmp_path):
    with pytest.raises(CheckpointError, match=wanted):
        load(case_of(architecture), tmp_path, **config)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SCALINGS = [
    ("Qwen2ForCausalLM", LLAMA3, "rope_type .* is 'llama3', but llama.cpp's qwen2 graph does not read its factors"),
    ("Phi3ForCausalLM", LLAMA3, "rope_type .* is 'llama3'"),
    ("LlamaForCausalLM", {"rope_type": "longrope", "factor": 4.0}, "is 'longrope', but long_factor is absent"),
    ("LlamaForCausalLM", {"type": "su", "long_factor": [1.0], "short_factor": [1.0]}, "does not read its factors"),
    ("Phi3ForCausalLM", {"type": "su", "short_factor": [1.0] * 8}, "is 'su', but long_factor is absent"),
    ("Phi3ForCausalLM", {"type": "longrope"}, "long_factor is absent"),
    ("LlamaForCausalLM", {"rope_type": "linear"}, "RoPE scaling lacks factor"),
    ("LlamaForCausalLM", {"rope_type": "yarn", "original_max_position_embeddings": 64}, "RoPE scaling lacks factor"),
    ("LlamaForCausalLM", {"rope_type": "linear", "factor": 0}, "factor of the RoPE scaling is 0"),
    ("LlamaForCausalLM", {"factor": 2.0}, "factor .* is 2.0, but no rope_type says"),
    ("LlamaForCausalLM", YARN | {"mscale": 0.7}, "mscale of the RoPE scaling is 0.7"),
    ("Qwen3ForCausalLM", YARN | {"truncate": False}, "truncate of the RoPE scaling is False"),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "scaling", "wanted"), SCALINGS)
def test_a_rope_scaling_that_the_graph_does_not_do_is_refused(architecture, scaling, wanted, tmp_path):
    with pytest.raises(CheckpointError, match=wanted):
        load(case_of(architecture), tmp_path, drop=("rope_parameters", "rope_theta"), rope_scaling=scaling)


@pytest.mark.parametrize("key", sorted(COMMON))
def test_values_that_change_nothing_are_accepted(key, tmp_path):
    for value in COMMON[key] if key != "layer_types" else (["full_attention"] * 2,):
        assert not load(LLAMA, tmp_path / repr(value)[:9], **{key: value}).notes


@pytest.mark.parametrize("name", tiny.CASES)
def test_published_configs_have_no_unknown_key(name, tmp_path):
    if name == "code-llama-7b-hf":
        return  # the same config as llama-1-7b in 32,016 rows
    assert not [note for note in convert(Checkpoint.open(tiny.build(name, tmp_path))).notes if "not known" in note]


def test_a_key_that_nobody_knows_is_noted(tmp_path):
    model = load(LLAMA, tmp_path, my_own_scale=2.0, _private=1, unsloth_version="1", x=1, y=2, z=3, w=4, v=5)
    assert len(model.notes) == 1
    assert "config.json: not known and not used: my_own_scale, v, w, x, y and 1 more" in model.notes[0]
    model = load(LLAMA, tmp_path / "rope", rope_scaling={"rope_type": "linear", "factor": 2.0, "finetuned": True})
    assert "finetuned of the RoPE scaling" in model.notes[0]


WINDOWS = [
    ("MistralForCausalLM", {"sliding_window": 16}, True),
    ("MistralForCausalLM", {"sliding_window": None}, False),
    ("MistralForCausalLM", {"sliding_window": 1 << 20}, False),
    ("Qwen2ForCausalLM", {"sliding_window": 16, "use_sliding_window": True}, True),
    ("Qwen2ForCausalLM", {"sliding_window": 16, "use_sliding_window": False}, False),
    ("LlamaForCausalLM", {"sliding_window": 16}, False),  # transformers' Llama does not read it either
]


@pytest.mark.parametrize(("architecture", "config", "noted"), WINDOWS)
def test_a_window_that_llama_cpp_does_not_keep_is_noted(architecture, config, noted, tmp_path):
    notes = load(case_of(architecture), tmp_path, **config).notes
    assert bool(notes) == noted
    assert not noted or "sliding_window is 16: llama.cpp looks back to the beginning" in notes[0]


@pytest.mark.parametrize(("truncate", "noted"), [(False, True), (True, False)])
def test_gpt_oss_declares_limits_of_yarn_that_are_not_rounded(truncate, noted, tmp_path):
    name = case_of("GptOssForCausalLM")
    scaling = tiny.load_case(name)["config"]["rope_scaling"] | {"truncate": truncate}
    notes = load(name, tmp_path, rope_scaling=scaling).notes
    assert bool([note for note in notes if "truncate" in note and "llama.cpp rounds the limits" in note]) == noted


def test_a_dynamic_scaling_is_noted(tmp_path):
    assert "dynamic" in load(LLAMA, tmp_path, rope_scaling={"type": "dynamic", "factor": 2.0}).notes[0]


def test_lists_do_not_contradict_each_other():
    assert not COMMON.keys() & INERT


_ALWAYS = {"hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
           "num_key_value_heads", "pad_token_id", "rope_parameters", "vocab_size", "attention_dropout",
           "hidden_act"}  # fmt: skip
_MOE = {"num_experts_per_tok", "output_router_logits", "router_aux_loss_coef", "initializer_range"}
# What modeling_*.py of transformers 5.23 reads of the config, beside _ALWAYS.
READS = {
    "LlamaForCausalLM": {"attention_bias", "mlp_bias", "rms_norm_eps"},
    "MistralForCausalLM": {"rms_norm_eps", "sliding_window"},
    "MixtralForCausalLM": _MOE | {"num_local_experts", "rms_norm_eps", "router_jitter_noise", "sliding_window"},
    "PhiForCausalLM": {"embd_pdrop", "layer_norm_eps", "partial_rotary_factor", "qk_layernorm", "resid_pdrop"},
    "Phi3ForCausalLM": {"original_max_position_embeddings", "resid_pdrop", "rms_norm_eps", "sliding_window"},
    "Qwen2ForCausalLM": {"layer_types", "rms_norm_eps", "sliding_window", "use_sliding_window", "max_window_layers"},
    "Qwen3ForCausalLM": {"attention_bias", "layer_types", "rms_norm_eps", "sliding_window"},
    "Qwen2MoeForCausalLM": _MOE
    | {"decoder_sparse_step", "layer_types", "mlp_only_layers", "moe_intermediate_size", "norm_topk_prob"}
    | {"num_experts", "qkv_bias", "rms_norm_eps", "shared_expert_intermediate_size", "sliding_window"},
    "Qwen3MoeForCausalLM": _MOE
    | {"attention_bias", "decoder_sparse_step", "mlp_only_layers", "moe_intermediate_size", "norm_topk_prob"}
    | {"num_experts", "rms_norm_eps", "sliding_window"},
    "OlmoeForCausalLM": _MOE | {"attention_bias", "clip_qkv", "norm_topk_prob", "num_experts", "rms_norm_eps"},
    "Gemma2ForCausalLM": {"attention_bias", "attn_logit_softcapping", "final_logit_softcapping", "hidden_activation"}
    | {"layer_types", "query_pre_attn_scalar", "rms_norm_eps", "sliding_window"},
    "Gemma3ForCausalLM": {"attention_bias", "attn_logit_softcapping", "final_logit_softcapping", "hidden_activation"}
    | {"head_dim", "layer_types", "query_pre_attn_scalar", "rms_norm_eps", "sliding_window"}
    | {"use_bidirectional_attention"},
    "DeepseekV3ForCausalLM": _MOE
    | {"attention_bias", "first_k_dense_replace", "kv_lora_rank", "moe_intermediate_size", "n_group", "norm_topk_prob"}
    | {"n_shared_experts", "num_local_experts", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "rms_norm_eps"}
    | {"rope_interleave", "routed_scaling_factor", "topk_group", "v_head_dim"},
}


@pytest.mark.parametrize("architecture", READS)
def test_every_key_that_transformers_reads_is_known(architecture, tmp_path):
    """Read by our rules, or held against what llama.cpp computes, or on the list of those that change no logits."""
    checkpoint = Checkpoint.open(tiny.build(case_of(architecture), tmp_path))
    family = find_family(checkpoint)
    silent = dict.fromkeys(_ALWAYS | READS[architecture]) | dict(checkpoint.config)
    notes = convert(dataclasses.replace(checkpoint, config=silent)).notes
    assert not [note for note in notes if "not known" in note], family.title


def test_the_shipped_models_convert_without_a_note():
    for path in (Path(__file__).parents[2] / "models").iterdir():
        if path.is_dir():
            assert not convert(Checkpoint.open(path)).notes
