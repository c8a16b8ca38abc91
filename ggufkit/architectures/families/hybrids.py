"""Layers that keep a state beside layers of attention: Granite 4, Falcon-H1."""

from collections.abc import Mapping
from typing import Any

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures import own_rules as own
from ggufkit.architectures.arithmetic import ANY, Values
from ggufkit.architectures.bends import either, halves, renamed, scaled, scaled_rows, stacked_rows
from ggufkit.architectures.config import STATES, Config, Default
from ggufkit.architectures.families.llama import INTERLEAVED
from ggufkit.architectures.families.llama_kin import (
    GRANITE_COMPUTES,
    GRANITE_CUTS,
    GRANITE_DEFAULTS,
    GRANITE_RULES,
    OUTPUT_BIAS,
    SHARED_MLP,
)  # fmt: skip
from ggufkit.architectures.families.parts import ATTENTION, DENSE, MOE, QKV_BIAS, WHOLE
from ggufkit.architectures.family import Family, Layers, Shape
from ggufkit.architectures.mamba import (
    MAMBA,
    MAMBA_BENDS,
    MAMBA_BIAS,
    MAMBA_NORM,
    MAMBA_RENAMES,
    d_inner,
    d_state,
    n_ssm_group,
    n_ssm_head,
    ssm_sizes,
)  # fmt: skip
from ggufkit.architectures.sizes import is_full, is_linear, n_embd
from ggufkit.tokenizer import VocabKind

NORMS: dict[str, Shape] = {"attn_norm.weight": (n_embd,), "ffn_norm.weight": (n_embd,)}
ATTENTION_BARE = {name: shape for name, shape in ATTENTION.items() if name not in NORMS}
NO_LIMIT: Values = (None, [0.0, float("inf")])
STATE_COMPUTES: dict[str, Values] = {"layer_types": ANY, "time_step_limit": NO_LIMIT} | dict.fromkeys(
    ("mamba_chunk_size", "mamba_conv_bias", "mamba_d_head", "mamba_expand", "mamba_proj_bias", "mamba_use_mlp"), ANY
)  # fmt: skip


def has_states(values: Mapping[str, Any]) -> bool:
    listed = values.get("layer_types")
    return isinstance(listed, list) and any(kind in STATES for kind in listed)


def has_experts(config: Config) -> bool:
    return bool(config.get("num_local_experts"))


GRANITE4_RULES = (
    *GRANITE_RULES,
    hp.u32(Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, "shared_intermediate_size", low=0),
    ssm_sizes(
        Keys.SSM.CONV_KERNEL, Keys.SSM.STATE_SIZE, Keys.SSM.GROUP_COUNT, Keys.SSM.INNER_SIZE, Keys.SSM.TIME_STEP_RANK
    ),
    own.kv_heads_where(is_full),
)
GRANITE4_COMPUTES = (
    GRANITE_COMPUTES | STATE_COMPUTES | {"normalization_function": (None, "rmsnorm"), "init_method": ANY}
)
GRANITE4_DEFAULTS = GRANITE_DEFAULTS | {
    "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2,
    "shared_intermediate_size": 1024,
}  # fmt: skip
GRANITE4_SPLITS = {
    "block_sparse_moe.input_linear": halves("ffn_gate_exps.weight", "ffn_up_exps.weight"),
    "shared_mlp.input_linear": either(
        has_experts,
        stacked_rows("ffn_gate_shexp.weight", "ffn_up_shexp.weight"),
        stacked_rows("ffn_gate.weight", "ffn_up.weight"),
    ),
    "shared_mlp.output_linear": either(has_experts, renamed("ffn_down_shexp.weight"), renamed("ffn_down.weight")),
}

GRANITE_HYBRID = Family(
    title="Granite 4 hybrids (dense and MoE)",
    classes=("GraniteMoeHybridForCausalLM",),
    arch=MODEL_ARCH.GRANITE_HYBRID,
    source="conversion/granite.py GraniteHybridModel",
    when=has_states,
    rules=(
        *GRANITE4_RULES, hp.fixed(Keys.Rope.SCALING_FINETUNED, GGUFValueType.BOOL, False),
        hp.fixed(Keys.LLM.CONTEXT_LENGTH, GGUFValueType.UINT32, 1 << 20), own.granite_expansion,
    ),
    vocab=(VocabKind.SPM, VocabKind.BPE),
    whole=WHOLE,
    layers=(
        Layers(NORMS), Layers(ATTENTION_BARE, is_full), Layers(MAMBA | MAMBA_NORM, is_linear),
        Layers(MAMBA_BIAS, is_linear, required=False),
        Layers(MOE | SHARED_MLP, lambda config, _: has_experts(config)),
        Layers(DENSE, lambda config, _: not has_experts(config)),
    ),
    optional=QKV_BIAS | OUTPUT_BIAS,
    splits=GRANITE4_SPLITS,
    bends=INTERLEAVED | MAMBA_BENDS,
    renames=MAMBA_RENAMES,
    computes=GRANITE4_COMPUTES | {"position_embedding_type": (None, "nope")},
    pre_alias=GRANITE_CUTS,
    defaults=GRANITE4_DEFAULTS,
)  # fmt: skip

GRANITE4 = Family(
    title="Granite 4 (dense, attention alone)",
    classes=("GraniteMoeHybridForCausalLM",),
    arch=MODEL_ARCH.GRANITE,
    source="conversion/granite.py GraniteHybridModel",
    when=lambda values: not has_states(values) and not values.get("num_local_experts"),
    rules=(*GRANITE4_RULES, hp.fixed(Keys.Rope.SCALING_FINETUNED, GGUFValueType.BOOL, True)),
    vocab=(VocabKind.SPM, VocabKind.BPE),
    whole=WHOLE,
    layers=(Layers(ATTENTION | DENSE),),
    optional=QKV_BIAS | OUTPUT_BIAS,
    splits=GRANITE4_SPLITS,
    bends=INTERLEAVED,
    computes=GRANITE4_COMPUTES | {"position_embedding_type": ("rope",)},
    pre_alias=GRANITE_CUTS,
    defaults=GRANITE4_DEFAULTS,
)


def zxbcdt(config: Config) -> list[int]:
    """How many rows each of the five multipliers of a state's projection is for."""
    inner, group = d_inner(config), n_ssm_group(config) * d_state(config)
    return [inner, inner, group, group, n_ssm_head(config)]


FALCON_LAYER: dict[str, Shape] = (
    ATTENTION_BARE | DENSE | MAMBA | {"attn_norm.weight": (n_embd,), "ffn_norm": (n_embd,)}  # so llama.cpp calls it
)
FALCON_BENDS = MAMBA_BENDS | {
    "token_embd.weight": scaled("embedding_multiplier"),
    "output.weight": scaled("lm_head_multiplier"),
    "attn_q.weight": scaled("attention_in_multiplier"),
    "attn_k.weight": scaled("key_multiplier", "attention_in_multiplier"),
    "attn_v.weight": scaled("attention_in_multiplier"),
    "attn_output.weight": scaled("attention_out_multiplier"),
    "ffn_gate.weight": scaled(("mlp_multipliers", 0)),
    "ffn_down.weight": scaled(("mlp_multipliers", 1)),
    "ssm_in.weight": scaled_rows("ssm_in_multiplier", "ssm_multipliers", zxbcdt),
    "ssm_out.weight": scaled("ssm_out_multiplier"),
}
FALCON_COMPUTES: dict[str, Values] = STATE_COMPUTES | dict.fromkeys((
    "attn_layer_indices", "mamba_d_ssm", "mamba_norm_before_gate", "mamba_rms_norm", "projectors_bias",
    "num_logits_to_keep",
    "embedding_multiplier", "lm_head_multiplier",
), ANY)  # fmt: skip
FALCON_DEFAULTS: dict[str, Default] = {
    "rope_theta": 100000.0, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "num_key_value_heads": 8,
    "mamba_d_ssm": 1024, "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4,
    "embedding_multiplier": 1.0, "lm_head_multiplier": 1.0, "attention_in_multiplier": 1.0, "key_multiplier": 1.0,
    "attention_out_multiplier": 1.0, "ssm_in_multiplier": 1.0, "ssm_out_multiplier": 1.0,
}  # fmt: skip

FALCON_H1 = Family(
    title="Falcon-H1",
    classes=("FalconH1ForCausalLM",),
    arch=MODEL_ARCH.FALCON_H1,
    source="conversion/falcon_h1.py FalconH1Model",
    rules=(
        hp.CONTEXT_LENGTH, hp.EMBEDDING_LENGTH, hp.FEED_FORWARD_LENGTH, hp.HEAD_COUNT, hp.block_count,
        ssm_sizes(
            Keys.SSM.CONV_KERNEL, Keys.SSM.INNER_SIZE, Keys.SSM.STATE_SIZE, Keys.SSM.TIME_STEP_RANK,
            Keys.SSM.GROUP_COUNT,
        ),
        hp.RMS_EPS, hp.FILE_TYPE, hp.VOCAB_SIZE, hp.HEAD_COUNT_KV, *hp.HEAD_LENGTHS, hp.rope_theta,
        own.falcon_h1,
    ),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(
        Layers(FALCON_LAYER), Layers(MAMBA_BIAS, required=False),
        Layers(MAMBA_NORM, lambda config, _: config.flag("mamba_rms_norm")),
    ),
    optional=QKV_BIAS | OUTPUT_BIAS,
    splits={"pre_ff_layernorm": renamed("ffn_norm")},
    bends=FALCON_BENDS,
    renames=MAMBA_RENAMES,
    pre_alias={"llama-bpe": "falcon-h1"},
    computes=FALCON_COMPUTES,
    defaults=FALCON_DEFAULTS,
)  # fmt: skip
