"""Mistral's own files, consolidated.safetensors and params.json, told in the words of transformers.

They are the same model under other names, with one difference: rows of queries and keys lie in the order in which
llama.cpp turns them already. Source: llama.cpp's conversion/mistral.py; transformers' convert_mistral_weights_to_hf.py.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures.arithmetic import ANY
from ggufkit.architectures.config import Config
from ggufkit.architectures.family import Family
from ggufkit.architectures.own_rules import query_growth
from ggufkit.errors import CheckpointError
from ggufkit.formats.checkpoint import PARAMS, Checkpoint
from ggufkit.formats.model import KV
from ggufkit.tokenizer import VocabKind

SIGNS = ("layers.0.attention.wq.weight", "layers.0.attention.wq_a.weight")  # names that no other checkpoint has
N_CTX = 32768  # of the models whose params.json is silent
NAMES = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "hidden_dim":
    "intermediate_size", "n_kv_heads": "num_key_value_heads", "norm_eps": "rms_norm_eps", "head_dim": "head_dim",
    "vocab_size": "vocab_size", "rope_theta": "rope_theta", "tied_embeddings": "tie_word_embeddings",
    "sliding_window": "sliding_window", "activation": "hidden_act",
}  # fmt: skip
# of models with experts, under "moe"
MOE_NAMES = {
    "num_experts": "n_routed_experts", "num_experts_per_tok": "num_experts_per_tok", "expert_hidden_dim":
    "moe_intermediate_size", "num_shared_experts": "n_shared_experts", "first_k_dense_replace": "first_k_dense_replace",
    "routed_scale": "routed_scaling_factor", "num_expert_groups": "n_group", "num_expert_groups_per_tok": "topk_group",
    "route_every_n": "moe_layer_freq",
}  # fmt: skip
LATENT = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_CLASSES = {"mistral": "MistralForCausalLM", "ministral3": "Ministral3ForCausalLM", "mixtral": "MixtralForCausalLM",
            "mistral_large3": "DeepseekV3ForCausalLM"}  # fmt: skip
_REQUIRED = ("dim", "n_layers", "n_heads", "hidden_dim", "norm_eps", "vocab_size")
_OTHER_SENSES = ("vision_encoder", "multimodal", "audio_encoder")
_KNOWN = {*NAMES, *LATENT, *_OTHER_SENSES, "moe", "max_position_embeddings", "max_seq_len", "model_max_length", "yarn",
          "llama_4_scaling", "quantization", "model_type", "use_biases", "causal", "rope_scaling"}  # fmt: skip
RENAMES = {
    r"^layers\.": "model.layers.",
    r"^tok_embeddings\.": "model.embed_tokens.",
    r"^norm\.": "model.norm.",
    r"^output\.": "lm_head.",
    r"\.attention\.w([qkvo])\.": r".self_attn.\1_proj.",
    r"\.attention\.w(q_a|q_b|kv_b)\.": r".self_attn.\1_proj.",
    r"\.attention\.wkv_a_with_mqa\.": ".self_attn.kv_a_proj_with_mqa.",
    r"\.attention\.(q_a|kv_a)_norm\.": r".self_attn.\1_layernorm.",
    r"\.attention_norm\.": ".input_layernorm.",
    r"\.ffn_norm\.": ".post_attention_layernorm.",
    r"\.feed_forward\.(experts|gate)\.": r".block_sparse_moe.\1.",
    r"(layers\.\d+)\.(gate|experts|shared_experts)\.": r"\1.mlp.\2.",
    r"(mlp\.(?:experts\.\d+|shared_experts))\.w1\.": r"\1.gate_proj.",
    r"(mlp\.(?:experts\.\d+|shared_experts))\.w2\.": r"\1.down_proj.",
    r"(mlp\.(?:experts\.\d+|shared_experts))\.w3\.": r"\1.up_proj.",
    r"\.feed_forward\.w1\.": ".mlp.gate_proj.",
    r"\.feed_forward\.w2\.": ".mlp.down_proj.",
    r"\.feed_forward\.w3\.": ".mlp.up_proj.",
    r"^(vision_encoder|vision_language_adapter|pre_mm_projector_norm|patch_merger|mm_whisper_embeddings)\.":
        "vision_model.",
}  # fmt: skip


def is_own(checkpoint: Checkpoint) -> bool:
    """Whether the weights are Mistral's own files, whatever lies beside them."""
    return any(sign in checkpoint.tensors for sign in SIGNS) or checkpoint.config_name == PARAMS


def told(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with params.json as transformers' config.json would say it; a config.json stays what it is."""
    if checkpoint.config_name != PARAMS:
        return checkpoint
    params = checkpoint.config
    path = checkpoint.path / PARAMS
    if lacking := [name for name in _REQUIRED if params.get(name) is None]:
        raise CheckpointError(f"{path} lacks {', '.join(lacking)}. Fetch the file again, or config.json beside it.")
    for name in ("use_biases", "rope_scaling"):
        if params.get(name):
            raise CheckpointError(f"{path}: {name} is set, which llama.cpp's llama graph does not compute here.")
    config: dict[str, Any] = {NAMES[key]: value for key, value in params.items() if key in NAMES and value is not None}
    kind = _kind(params)
    config |= {"architectures": [_CLASSES[kind]], "model_type": kind} | _experts(params, kind, path)
    config |= {"max_position_embeddings": _n_ctx(checkpoint, params)}
    if (yarn := params.get("yarn")) is not None:
        config["rope_parameters"] = _rope(params, yarn, path)
        if kind == "mistral_large3":
            config["rope_parameters"]["mscale_all_dim"] = 1.0  # whatever apply_scale says, as in the converter
    if unknown := sorted(params.keys() - _KNOWN):
        checkpoint.notes.append(f"{PARAMS}: not known and not used: {', '.join(unknown[:5])}")
    return replace(checkpoint, config=config)


def own(family: Family) -> Family:
    """The family as Mistral's own files have it."""
    bends = {name: bend for name, bend in family.bends.items() if name not in ("attn_q.*", "attn_k.*")}
    return replace(
        family,
        bends=bends,
        renames={**RENAMES, **family.renames},
        rules=(*family.rules, query_growth if family.arch is MODEL_ARCH.DEEPSEEK2 else yarn_log_multiplier),
        computes={**family.computes, "mscale_all_dim": ANY, "llama_4_scaling_beta": ANY},
        vocab=(VocabKind.MISTRAL, *family.vocab),
    )


def yarn_log_multiplier(config: Config, arch: str) -> Iterable[KV]:
    """llama.cpp scales attention by YaRN's own rule unless this says no (0)."""
    if (value := config.rope.get("mscale_all_dim")) is not None:
        yield KV(Keys.Rope.SCALING_YARN_LOG_MUL.format(arch=arch), GGUFValueType.FLOAT32, float(value))


def _kind(params: Mapping[str, Any]) -> str:
    """transformers' model_type."""
    if params.get("moe") is not None:
        return "mixtral" if params.get("kv_lora_rank") is None else "mistral_large3"
    return "mistral" if params.get("llama_4_scaling") is None else "ministral3"


def _experts(params: Mapping[str, Any], kind: str, path: Path) -> dict[str, Any]:
    """What transformers calls the numbers of experts; of MLA the names are the same."""
    moe = params.get("moe")
    if moe is None:
        return {}
    if not isinstance(moe, dict) or moe.get("num_experts") is None:
        raise CheckpointError(f"{path}: moe is {moe!r:.60}, wanted an object with num_experts.")
    if kind == "mixtral":
        return {"num_local_experts": moe["num_experts"], "num_experts_per_tok": moe.get("num_experts_per_tok", 2)}
    out = {MOE_NAMES[key]: value for key, value in moe.items() if key in MOE_NAMES and value is not None}
    out |= {name: params[name] for name in LATENT if params.get(name) is not None}
    return out | {"norm_topk_prob": True, "scoring_func": "softmax"}


def _n_ctx(checkpoint: Checkpoint, params: Mapping[str, Any]) -> Any:
    for name in ("max_position_embeddings", "max_seq_len", "model_max_length"):
        if params.get(name) is not None:
            return params[name]
    checkpoint.notes.append(f"{PARAMS} states no length of the context; {N_CTX} is taken")
    return N_CTX


def _rope(params: Mapping[str, Any], yarn: Any, path: Any) -> dict[str, Any]:
    """transformers' names: alpha is beta_slow, beta is beta_fast, and apply_scale says whether attention is scaled."""
    scaling = params.get("llama_4_scaling") or {}
    if not isinstance(yarn, dict) or not isinstance(scaling, dict):
        raise CheckpointError(f"{path}: yarn is {yarn!r:.60}, wanted an object.")
    out = {"rope_type": "yarn", "rope_theta": params.get("rope_theta"), "factor": yarn.get("factor"),
           "beta_fast": yarn.get("beta"), "beta_slow": yarn.get("alpha"),
           "original_max_position_embeddings": yarn.get("original_max_position_embeddings"),
           "mscale_all_dim": 0.0 if yarn.get("apply_scale") else 1.0,
           "llama_4_scaling_beta": scaling.get("beta")}  # fmt: skip
    return {name: value for name, value in out.items() if value is not None}
