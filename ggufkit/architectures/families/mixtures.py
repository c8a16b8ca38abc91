"""Mixtures with shared experts, and their dense kin: dots.llm1, Ernie 4.5, Llama 4, Hunyuan, Exaone 4."""

from gguf import MODEL_ARCH, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures import own_rules as own
from ggufkit.architectures.arithmetic import ANY, Values
from ggufkit.architectures.bends import rows_in_turn, stacked_rows, transposed, transposed_halves
from ggufkit.architectures.config import Config, Default, same_as
from ggufkit.architectures.families.deepseek import DEEPSEEK_EXPERTS, SHARED_EXPERTS
from ggufkit.architectures.families.parts import ATTENTION, DENSE, HEAD_NORMS, MLP_FUSED, MOE, QKV_BIAS, ROPE, WHOLE
from ggufkit.architectures.family import MLP_EXPERTS, Experts, Family, Layers, Shape
from ggufkit.architectures.rope import llama3_factors
from ggufkit.architectures.sizes import is_dense, is_sparse, n_embd, n_expert, n_ff_expert, n_kv, n_q, one
from ggufkit.tokenizer import VocabKind

DOTS1 = Family(
    title="dots.llm1",
    classes=("Dots1ForCausalLM",),
    arch=MODEL_ARCH.DOTS1,
    source="conversion/dots1.py Dots1Model",
    rules=(*hp.COMMON, hp.FILE_TYPE, hp.EXPERT_FEED_FORWARD, hp.leading_dense, *DEEPSEEK_EXPERTS),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(
        Layers(ATTENTION | HEAD_NORMS | {"attn_k.weight": (n_q, n_embd), "attn_v.weight": (n_q, n_embd)}),
        Layers(DENSE, is_dense),
        Layers(MOE | SHARED_EXPERTS, is_sparse),
    ),
    optional={"exp_probs_b.bias": (n_expert,)},
    experts=MLP_EXPERTS,
    splits=MLP_FUSED,
    computes={"scoring_func": (None, "sigmoid", "noaux_tc"), "sliding_window": (None, 4096), "topk_method": ANY}
    | dict.fromkeys(("first_k_dense_replace", "n_shared_experts", "routed_scaling_factor", "norm_topk_prob"), ANY),
    defaults=ROPE
    | {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "num_key_value_heads": 32, "scoring_func": "sigmoid"},
)

ERNIE_FUSED = {
    "self_attn.qkv_proj": rows_in_turn({"attn_q.weight": n_q, "attn_k.weight": n_kv, "attn_v.weight": n_kv}),
    "mlp.up_gate_proj": stacked_rows("ffn_gate.weight", "ffn_up.weight"),
}
ERNIE_DEFAULTS: dict[str, Default] = {
    "rope_theta": 500000.0, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip

ERNIE = Family(
    title="Ernie 4.5 (dense)",
    classes=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    arch=MODEL_ARCH.ERNIE4_5,
    source="conversion/ernie.py Ernie4_5Model",
    rules=(*hp.COMMON, hp.FILE_TYPE),
    vocab=(VocabKind.SPM,),
    whole=WHOLE,
    layers=(Layers(ATTENTION | DENSE),),
    optional={"attn_output.bias": (n_embd,)},
    splits=ERNIE_FUSED,
    renames={r"^ernie\.": "model."},
    defaults=ERNIE_DEFAULTS | {"num_key_value_heads": 2, "head_dim": 128},
)


def n_ff_ernie_shared(config: Config) -> int:
    return n_ff_expert(config) * config.integer("moe_num_shared_experts")


ERNIE_SHARED: dict[str, Shape] = {
    "ffn_gate_shexp.weight": (n_ff_ernie_shared, n_embd),
    "ffn_up_shexp.weight": (n_ff_ernie_shared, n_embd),
    "ffn_down_shexp.weight": (n_embd, n_ff_ernie_shared),
}


def starts(config: Config, layer: int) -> bool:
    return layer >= config.checked_integer("moe_layer_start_index", config.get("moe_layer_start_index"), low=0)


ERNIE_MOE = Family(
    title="Ernie 4.5 MoE (the language model)",
    classes=("Ernie4_5_MoeForCausalLM",),
    arch=MODEL_ARCH.ERNIE4_5_MOE,
    source="conversion/ernie.py Ernie4_5MoeModel",
    rules=(
        *hp.COMMON, hp.FILE_TYPE, hp.u32(Keys.LLM.EXPERT_COUNT, "moe_num_experts", required=True),
        hp.u32(Keys.LLM.EXPERT_USED_COUNT, "moe_k", required=True), own.ernie_layers, hp.EXPERT_FEED_FORWARD,
        hp.u32(Keys.LLM.EXPERT_SHARED_COUNT, "moe_num_shared_experts", low=0), own.ernie_shared,
    ),
    vocab=(VocabKind.SPM,),
    whole=WHOLE,
    layers=(
        Layers(ATTENTION),
        Layers(DENSE, lambda config, layer: not starts(config, layer)),
        Layers(MOE, starts),
        Layers(ERNIE_SHARED, lambda config, i: starts(config, i) and bool(config.get("moe_num_shared_experts"))),
    ),
    optional={"exp_probs_b.bias": (one, n_expert)},
    experts=Experts("mlp.experts", {f"{part}_proj": f"ffn_{part}_exps" for part in ("gate", "up", "down")}),
    splits=MLP_FUSED | ERNIE_FUSED,
    computes={"moe_layer_interval": (None, 1), "use_rmsnorm": (None, True)}
    | dict.fromkeys(("moe_capacity", "moe_gate", "moe_use_aux_free"), ANY),
    defaults=ERNIE_DEFAULTS
    | {"num_key_value_heads": 4, "moe_intermediate_size": 1536, "moe_k": 6, "moe_num_experts": 64}
    | {"moe_num_shared_experts": 2, "moe_layer_start_index": 1, "moe_layer_interval": 1},
)  # fmt: skip

HUNYUAN_COMPUTES: dict[str, Values] = {"use_qk_norm": (None, True)} | dict.fromkeys(
    ("alpha", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"), ANY
)

HUNYUAN_DENSE = Family(
    title="Hunyuan (dense)",
    classes=("HunYuanDenseV1ForCausalLM",),
    arch=MODEL_ARCH.HUNYUAN_DENSE,
    source="conversion/hunyuan.py HunYuanModel",
    rules=(*hp.COMMON, hp.FILE_TYPE, own.hunyuan_rope),
    vocab=(VocabKind.BPE,),
    roles=(own.hunyuan_ends,),
    whole=WHOLE,
    layers=(Layers(ATTENTION | HEAD_NORMS | DENSE),),
    optional=QKV_BIAS,
    pre_alias={"deepseek-v3": "hunyuan-dense"},
    computes=HUNYUAN_COMPUTES,
    defaults=ROPE
    | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "num_key_value_heads": same_as("num_attention_heads")},
)

EXAONE4_LAYER: dict[str, Shape] = {
    name: ATTENTION[name] for name in ("attn_q.weight", "attn_k.weight", "attn_v.weight")
} | {"attn_output.weight": (n_embd, n_embd), "post_attention_norm.weight": (n_embd,), "post_ffw_norm.weight": (n_embd,)}

EXAONE4 = Family(
    title="Exaone 4.0",
    classes=("Exaone4ForCausalLM",),
    arch=MODEL_ARCH.EXAONE4,
    source="conversion/exaone.py Exaone4Model",
    rules=(*hp.COMMON, hp.FILE_TYPE, hp.VOCAB_SIZE, own.exaone4_window),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(Layers(EXAONE4_LAYER | HEAD_NORMS | DENSE),),
    computed=llama3_factors,
    pre_alias={"gpt-2": "exaone4", "olmo": "exaone4"},
    computes=dict.fromkeys(("sliding_window", "layer_types", "reorder_and_upcast_attn", "sliding_window_pattern"), ANY),
    defaults=ROPE | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "num_key_value_heads": 32},
)


def n_ff_mlp(config: Config) -> int:
    return config.integer("intermediate_size_mlp")


def has_experts(config: Config, layer: int) -> bool:
    return (layer + 1) % config.integer("interleave_moe_layer_step") == 0


LLAMA4_DENSE: dict[str, Shape] = {
    "ffn_gate.weight": (n_ff_mlp, n_embd), "ffn_up.weight": (n_ff_mlp, n_embd), "ffn_down.weight": (n_embd, n_ff_mlp),
}  # fmt: skip
LLAMA4_SHARED: dict[str, Shape] = {
    "ffn_gate_shexp.weight": (n_ff_expert, n_embd),
    "ffn_up_shexp.weight": (n_ff_expert, n_embd),
    "ffn_down_shexp.weight": (n_embd, n_ff_expert),
}
LLAMA4_COMPUTES: dict[str, Values] = {
    "attention_chunk_size": (None, 8192), "floor_scale": (None, 8192), "attn_scale": (None, 0.1),
    "attn_temperature_tuning": (None, True, 4),
} | dict.fromkeys(
    ("interleave_moe_layer_step", "no_rope_layers", "no_rope_layer_interval", "layer_types", "moe_layers",
     "use_qk_norm", "for_llm_compressor"), ANY
)  # fmt: skip

LLAMA4 = Family(
    title="Llama 4 Scout and Maverick (the language model)",
    classes=("Llama4ForConditionalGeneration", "Llama4ForCausalLM"),
    arch=MODEL_ARCH.LLAMA4,
    source="conversion/llama.py Llama4Model",
    rules=(
        *hp.COMMON, hp.FILE_TYPE, hp.u32(Keys.LLM.FEED_FORWARD_LENGTH, "intermediate_size_mlp", required=True),
        hp.VOCAB_SIZE, hp.rope_dimension,
        hp.u32(Keys.LLM.INTERLEAVE_MOE_LAYER_STEP, "interleave_moe_layer_step", required=True),
        hp.u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "intermediate_size", required=True), hp.nope_pattern(4),
        own.llama4_norms,
    ),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(
        Layers(ATTENTION), Layers(LLAMA4_DENSE, lambda config, layer: not has_experts(config, layer)),
        Layers(MOE | LLAMA4_SHARED, has_experts),
    ),
    splits={
        "feed_forward.experts.gate_up_proj": transposed_halves("ffn_gate_exps.weight", "ffn_up_exps.weight"),
        "feed_forward.experts.down_proj": transposed("ffn_down_exps.weight"),
    },
    computed=llama3_factors,
    pre_alias={"gpt-4o": "llama4"},
    computes=LLAMA4_COMPUTES,
    defaults={
        "rope_theta": 500000.0, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "num_key_value_heads": 8,
        "head_dim": 128, "num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
        "use_qk_norm": True, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
    },
)  # fmt: skip
