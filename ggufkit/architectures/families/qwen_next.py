"""Qwen3-Next, Qwen3.5 and later: linear attention in most layers."""

from gguf import MODEL_ARCH

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY, Values
from ggufkit.architectures.config import Default
from ggufkit.architectures.delta import IN_TURN, NORMS, PLAIN, SPLIT_QKVZ
from ggufkit.architectures.families.parts import (
    DENSE,
    HEAD_NORMS,
    MLP_FUSED,
    MOE,
    MTP,
    MTP_SPLITS,
    SHARED_EXPERT,
    WHOLE,
)
from ggufkit.architectures.family import MLP_EXPERTS, Family, Layers, Shape
from ggufkit.architectures.sizes import (
    delta_v_dim,
    is_full,
    is_linear,
    is_mtp,
    n_conv,
    n_delta_qkv,
    n_delta_v,
    n_delta_v_2,
    n_delta_values,
    n_embd,
    n_kv,
    n_q,
    n_q_2,
)
from ggufkit.tokenizer import VocabKind

MTP_NAMES = {
    "fc": "eh_proj",
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "norm": "shared_head.norm",
}

GATED_ATTENTION: dict[str, Shape] = {
    "attn_q.weight": (n_q_2, n_embd),
    "attn_k.weight": (n_kv, n_embd),
    "attn_v.weight": (n_kv, n_embd),
    "attn_output.weight": (n_embd, n_q),
} | HEAD_NORMS

DELTA: dict[str, Shape] = {
    "attn_qkv.weight": (n_delta_qkv, n_embd),
    "attn_gate.weight": (n_delta_values, n_embd),
    "ssm_conv1d.weight": (n_delta_qkv, n_conv),
    "ssm_dt.bias": (n_delta_v,),
    "ssm_a": (n_delta_v,),
    "ssm_norm.weight": (delta_v_dim,),
    "ssm_out.weight": (n_embd, n_delta_values),
}

ALPHA_BETA: dict[str, Shape] = {"ssm_alpha.weight": (n_delta_v, n_embd), "ssm_beta.weight": (n_delta_v, n_embd)}

BOTH_NORMS: dict[str, Shape] = {"attn_norm.weight": (n_embd,), "post_attention_norm.weight": (n_embd,)}

DELTA_RULES = (hp.mtp_layers, hp.delta_net, hp.rope_share)

DELTA_COMPUTES: dict[str, Values] = {"attn_output_gate": (None, True)} | dict.fromkeys(
    ("layer_types", "partial_rotary_factor", "mrope_interleaved"), ANY
)

DELTA_DEFAULTS: dict[str, Default] = {
    "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "head_dim": 256, "rope_theta": 10000.0,
    "partial_rotary_factor": 0.25, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
}  # fmt: skip

QWEN3_NEXT = Family(
    title="Qwen3-Next",
    classes=("Qwen3NextForCausalLM",),
    arch=MODEL_ARCH.QWEN3NEXT,
    source="conversion/qwen.py Qwen3NextModel",
    rules=(*hp.COMMON, hp.FILE_TYPE, hp.EXPERT_FEED_FORWARD, hp.SHARED_FEED_FORWARD, *DELTA_RULES),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(
        Layers(BOTH_NORMS | MOE | SHARED_EXPERT),
        Layers(GATED_ATTENTION, is_full),
        Layers(DELTA | {"ssm_ba.weight": (n_delta_v_2, n_embd)}, is_linear),
        Layers(MTP, is_mtp),
    ),
    experts=MLP_EXPERTS,
    splits=MLP_FUSED | SPLIT_QKVZ | MTP_SPLITS,
    bends=PLAIN | NORMS,
    renames={r"\.dt_bias$": ".dt_proj.bias"},
    mtp=MTP_NAMES,
    computes=DELTA_COMPUTES,
    defaults=DELTA_DEFAULTS
    | {"num_key_value_heads": 2, "num_experts": 512, "num_experts_per_tok": 10}
    | {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512},
)

QWEN35 = Family(
    title="Qwen3.5, 3.6, 3.8 (dense; the language model)",
    classes=("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"),
    arch=MODEL_ARCH.QWEN35,
    source="conversion/qwen.py Qwen3_5TextModel",
    rules=(*hp.COMMON, hp.FILE_TYPE, *DELTA_RULES, hp.default_rope_sections),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(
        Layers(BOTH_NORMS | DENSE),
        Layers(GATED_ATTENTION, is_full),
        Layers(DELTA | ALPHA_BETA, is_linear),
        Layers(MTP, is_mtp),
    ),
    splits=MTP_SPLITS,
    bends=IN_TURN | NORMS,
    renames={r"\.dt_bias$": ".dt_proj.bias"},
    mtp=MTP_NAMES,
    computes=DELTA_COMPUTES,
    defaults=DELTA_DEFAULTS | {"num_key_value_heads": 4},
)

QWEN35_MOE = Family(
    title="Qwen3.5-MoE, 3.6, 3.8 (the language model)",
    classes=("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"),
    arch=MODEL_ARCH.QWEN35MOE,
    source="conversion/qwen.py Qwen3_5MoeTextModel",
    rules=(
        *hp.COMMON, hp.FILE_TYPE, hp.EXPERT_FEED_FORWARD, hp.SHARED_FEED_FORWARD, *DELTA_RULES,
        hp.default_rope_sections,
    ),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(
        Layers(BOTH_NORMS | MOE | SHARED_EXPERT),
        Layers(GATED_ATTENTION, is_full),
        Layers(DELTA | ALPHA_BETA, is_linear),
        Layers(MTP, is_mtp),
    ),
    experts=MLP_EXPERTS,
    splits=MLP_FUSED | MTP_SPLITS,
    bends=IN_TURN | NORMS,
    renames={r"\.dt_bias$": ".dt_proj.bias"},
    mtp=MTP_NAMES,
    computes=DELTA_COMPUTES,
    defaults=DELTA_DEFAULTS | {"num_key_value_heads": 2, "num_experts": 256, "num_experts_per_tok": 8},
)  # fmt: skip
