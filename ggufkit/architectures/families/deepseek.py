"""DeepSeek: latent attention, dense leading layers, shared experts."""

from dataclasses import replace

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures import own_rules as own
from ggufkit.architectures.arithmetic import ANY, Values
from ggufkit.architectures.bends import absorbed, renamed
from ggufkit.architectures.config import Default, deepseek_scoring, leading_dense, same_as
from ggufkit.architectures.families.parts import (
    DENSE,
    GLM_CUTS,
    GLM_ROLES,
    MLP_FUSED,
    MOE,
    MOE_GATE_UP,
    MTP,
    NEXTN_HEADS,
    NEXTN_SPLITS,
    ROPE,
    WHOLE,
)
from ggufkit.architectures.family import MLP_EXPERTS, Family, Layers, Shape
from ggufkit.architectures.sizes import (
    is_dense,
    is_mtp,
    is_sparse,
    kv_lora_rank,
    n_embd,
    n_expert,
    n_ff_shexp,
    n_head,
    n_head_v,
    n_kv_a,
    n_nope,
    n_o_mla,
    n_q_mla,
    q_lora_rank,
)
from ggufkit.tokenizer import VocabKind

SHARED_EXPERTS: dict[str, Shape] = {
    "ffn_gate_shexp.weight": (n_ff_shexp, n_embd),
    "ffn_up_shexp.weight": (n_ff_shexp, n_embd),
    "ffn_down_shexp.weight": (n_embd, n_ff_shexp),
}

MLA: dict[str, Shape] = {
    "attn_norm.weight": (n_embd,),
    "attn_kv_a_mqa.weight": (n_kv_a, n_embd),
    "attn_kv_a_norm.weight": (kv_lora_rank,),
    "attn_k_b.weight": (n_head, kv_lora_rank, n_nope),
    "attn_v_b.weight": (n_head, n_head_v, kv_lora_rank),
    "attn_output.weight": (n_embd, n_o_mla),
    "ffn_norm.weight": (n_embd,),
}

Q_WHOLE: dict[str, Shape] = {"attn_q.weight": (n_q_mla, n_embd)}

Q_LORA: dict[str, Shape] = {
    "attn_q_a.weight": (q_lora_rank, n_embd),
    "attn_q_a_norm.weight": (q_lora_rank,),
    "attn_q_b.weight": (n_q_mla, q_lora_rank),
}

DEEPSEEK_EXPERTS = (
    hp.u32(Keys.LLM.EXPERT_SHARED_COUNT, "n_shared_experts", low=0),
    hp.f32(Keys.LLM.EXPERT_WEIGHTS_SCALE, "routed_scaling_factor"),
    hp.boolean(Keys.LLM.EXPERT_WEIGHTS_NORM, "norm_topk_prob"),
)

DEEPSEEK_COMPUTES: dict[str, Values] = dict.fromkeys((
    "kv_lora_rank", "q_lora_rank", "first_k_dense_replace", "n_shared_experts", "routed_scaling_factor", "n_group",
    "topk_group", "topk_method", "norm_topk_prob", "scoring_func", "mscale", "mscale_all_dim",
), ANY)  # fmt: skip

Q_EITHER = (
    Layers(Q_WHOLE, lambda config, _: config.get("q_lora_rank") is None),
    Layers(Q_LORA, lambda config, _: config.get("q_lora_rank") is not None),
)
MLA_LAYERS = (
    Layers(MLA),
    *Q_EITHER,
    Layers(DENSE, is_dense),
    Layers(MOE | SHARED_EXPERTS, is_sparse),
)

ABSORBED = {"self_attn.kv_b_proj": absorbed(n_head, n_nope, "attn_k_b.weight", "attn_v_b.weight")}
PROBS_BIAS: dict[str, Shape] = {"exp_probs_b.bias": (n_expert,)}
MLA_DEFAULTS: dict[str, Default] = ROPE | {
    "rms_norm_eps": 1e-6, "head_dim": same_as("qk_rope_head_dim"), "num_experts_per_tok": 8,
    "moe_intermediate_size": 1407, "n_shared_experts": 2,
}  # fmt: skip

DEEPSEEK_CLASSES = (
    "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "KimiK25ForConditionalGeneration",
    "KimiVLForConditionalGeneration",
)  # fmt: skip

DEEPSEEK = Family(
    title="DeepSeek V2, V3, R1; Kimi K2 (of K2.5 and VL the language model), Moonlight",
    classes=DEEPSEEK_CLASSES,
    arch=MODEL_ARCH.DEEPSEEK2,
    source="conversion/deepseek.py DeepseekV2Model",
    rules=(
        *hp.COMMON,
        hp.fixed(Keys.Attention.HEAD_COUNT_KV, GGUFValueType.UINT32, 1),
        hp.FILE_TYPE,
        hp.leading_dense,
        hp.VOCAB_SIZE,
        hp.query_rank,
        hp.latent_attention,
        hp.EXPERT_FEED_FORWARD,
        *DEEPSEEK_EXPERTS,
        hp.u32(Keys.Rope.DIMENSION_COUNT, "qk_rope_head_dim"),
        hp.yarn_log_multiplier,
    ),
    vocab=(VocabKind.BPE, VocabKind.KIMI),
    whole=WHOLE,
    layers=MLA_LAYERS,
    optional=PROBS_BIAS,
    splits=MLP_FUSED | ABSORBED,
    beyond="the block that guesses further tokens: llama.cpp does not run it for this family",
    experts=MLP_EXPERTS,
    defaults=MLA_DEFAULTS | {"scoring_func": deepseek_scoring},
    computes=DEEPSEEK_COMPUTES,
)

GLM47_FLASH = replace(
    DEEPSEEK,
    title="GLM-4.7-Flash",
    classes=("Glm4MoeLiteForCausalLM",),
    source="conversion/glm.py Glm4MoeLiteModel",
    rules=(*(rule for rule in DEEPSEEK.rules if rule not in hp.HEAD_LENGTHS), hp.mtp_layers),
    roles=GLM_ROLES,
    layers=(*MLA_LAYERS, Layers(MTP, is_mtp)),
    optional=PROBS_BIAS | NEXTN_HEADS,
    splits=MLP_FUSED | ABSORBED | NEXTN_SPLITS,
    mtp={},
    beyond="",
    pre_alias=GLM_CUTS,
    defaults=MLA_DEFAULTS
    | {"rms_norm_eps": 1e-5, "scoring_func": "sigmoid", "first_k_dense_replace": leading_dense, "n_shared_experts": 1},
    computes=DEEPSEEK_COMPUTES | {"scoring_func": (None, "sigmoid")},
)

MISTRAL4 = replace(
    DEEPSEEK,
    title="Mistral Small 4 (the language model)",
    classes=("Mistral3ForConditionalGeneration", "Mistral4ForCausalLM"),
    when=lambda values: values.get("model_type") == "mistral4",
    arch=MODEL_ARCH.MISTRAL4,
    source="conversion/mistral3.py Mistral4Model",
    rules=(*DEEPSEEK.rules, own.query_growth),
    layers=(Layers(MLA), *Q_EITHER, Layers(DENSE, is_dense), Layers(MOE_GATE_UP | SHARED_EXPERTS, is_sparse)),
    splits={
        "mlp.experts.gate_up_proj": renamed("ffn_gate_up_exps.weight"),
        "mlp.experts.down_proj": renamed("ffn_down_exps.weight"),
    }
    | ABSORBED,
    beyond="",
    experts=None,
    computes=DEEPSEEK_COMPUTES
    | {"scoring_func": (None, "softmax")}
    | dict.fromkeys(("llama_4_scaling_beta", "spatial_merge_size", "partial_rotary_factor"), ANY),
    defaults=MLA_DEFAULTS | {"n_shared_experts": 1},
)
