"""The table of model families. A new family is one entry here, and its classes are then known everywhere.

Data only: sizes and rules come from `family` and `hparams`, transforms are done in `tensors`.
Sources: the classes of llama.cpp's converter at 0c1e57098 and llama-model.cpp's lists of tensors; defaults are those
of the configuration classes of transformers 5.23.
"""

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY, GELU_TANH, WINDOW, Values
from ggufkit.architectures.bends import (
    absorbed,
    changed,
    every_second,
    every_second_column,
    halves,
    interleaved,
    renamed,
    transposed,
)
from ggufkit.architectures.config import Default, deepseek_scoring, even_head_dim, same_as
from ggufkit.architectures.delta import IN_TURN, NORMS, PLAIN, SPLIT_QKVZ
from ggufkit.architectures.family import (
    MIXTRAL_EXPERTS,
    MLP_EXPERTS,
    Family,
    Layers,
    Shape,
    delta_v_dim,
    head_dim,
    is_dense,
    is_full,
    is_linear,
    is_mtp,
    is_sparse,
    kv_lora_rank,
    n_conv,
    n_delta_qkv,
    n_delta_v,
    n_delta_v_2,
    n_delta_values,
    n_embd,
    n_embd_2,
    n_expert,
    n_ff,
    n_ff_2,
    n_ff_expert,
    n_ff_shared,
    n_ff_shexp,
    n_head,
    n_head_kv,
    n_head_v,
    n_kv,
    n_kv_a,
    n_nope,
    n_o_mla,
    n_q,
    n_q_2,
    n_q_mla,
    n_qkv,
    n_vocab,
    one,
    q_lora_rank,
)
from ggufkit.architectures.rope import llama3_factors, longrope_factors
from ggufkit.formats.bend import plus_one
from ggufkit.tokenizer import VocabKind

_SPM_FIRST = (VocabKind.SPM, VocabKind.LLAMA_HF, VocabKind.BPE)
_SPM_OR_BPE = (VocabKind.SPM, VocabKind.BPE)

_WHOLE: dict[str, Shape] = {
    "token_embd.weight": (n_vocab, n_embd),
    "output_norm.weight": (n_embd,),
    "output.weight": (n_vocab, n_embd),
}
_ATTENTION: dict[str, Shape] = {
    "attn_norm.weight": (n_embd,),
    "attn_q.weight": (n_q, n_embd),
    "attn_k.weight": (n_kv, n_embd),
    "attn_v.weight": (n_kv, n_embd),
    "attn_output.weight": (n_embd, n_q),
    "ffn_norm.weight": (n_embd,),
}
_QKV_BIAS: dict[str, Shape] = {"attn_q.bias": (n_q,), "attn_k.bias": (n_kv,), "attn_v.bias": (n_kv,)}
_HEAD_NORMS: dict[str, Shape] = {"attn_q_norm.weight": (head_dim,), "attn_k_norm.weight": (head_dim,)}
_DENSE: dict[str, Shape] = {
    "ffn_gate.weight": (n_ff, n_embd),
    "ffn_up.weight": (n_ff, n_embd),
    "ffn_down.weight": (n_embd, n_ff),
}
_DENSE_BIAS: dict[str, Shape] = {"ffn_gate.bias": (n_ff,), "ffn_up.bias": (n_ff,), "ffn_down.bias": (n_embd,)}
_MOE: dict[str, Shape] = {
    "ffn_gate_inp.weight": (n_expert, n_embd),
    "ffn_gate_exps.weight": (n_expert, n_ff_expert, n_embd),
    "ffn_up_exps.weight": (n_expert, n_ff_expert, n_embd),
    "ffn_down_exps.weight": (n_expert, n_embd, n_ff_expert),
}
_FUSED = {
    "gate_up_proj": halves("ffn_gate_exps.weight", "ffn_up_exps.weight"),
    "down_proj": renamed("ffn_down_exps.weight"),
}
_MLP_FUSED = {f"mlp.experts.{name}": split for name, split in _FUSED.items()}
_MIXTRAL_FUSED = _MLP_FUSED | {f"block_sparse_moe.experts.{name}": split for name, split in _FUSED.items()}
_SHARED_EXPERT: dict[str, Shape] = {
    "ffn_gate_inp_shexp.weight": (one, n_embd),
    "ffn_gate_shexp.weight": (n_ff_shared, n_embd),
    "ffn_up_shexp.weight": (n_ff_shared, n_embd),
    "ffn_down_shexp.weight": (n_embd, n_ff_shared),
}
_INTERLEAVED = {"attn_q.*": interleaved(n_head), "attn_k.*": interleaved(n_head_kv)}
_LLAMA_RULES = (*hp.COMMON, hp.FILE_TYPE, hp.VOCAB_SIZE, hp.rope_dimension)
_WINDOW: dict[str, Values] = {"sliding_window": WINDOW}
_ROPE: dict[str, Default] = {"rope_theta": 10000.0}

_PHI2_RULES = (
    hp.CONTEXT_LENGTH,
    hp.EMBEDDING_LENGTH,
    hp.feed_forward_4x,
    hp.BLOCK_COUNT,
    hp.HEAD_COUNT,
    hp.u32(Keys.Attention.HEAD_COUNT_KV, "num_attention_heads"),
    hp.LAYER_NORM_EPS,
    hp.partial_rope_dimension,
    hp.FILE_TYPE,
    hp.fixed(Keys.Tokenizer.ADD_BOS, GGUFValueType.BOOL, False),
)
_PHI2_LAYER: dict[str, Shape] = (
    {name: _ATTENTION[name] for name in _ATTENTION if name != "ffn_norm.weight"}
    | {"attn_norm.bias": (n_embd,), "attn_output.bias": (n_embd,), "ffn_up.bias": (n_ff,), "ffn_down.bias": (n_embd,)}
    | {"ffn_up.weight": (n_ff, n_embd), "ffn_down.weight": (n_embd, n_ff)}
    | _QKV_BIAS
)
_PHI3_RULES = (
    hp.CONTEXT_LENGTH,
    hp.original_context,
    hp.EMBEDDING_LENGTH,
    hp.FEED_FORWARD_LENGTH,
    hp.BLOCK_COUNT,
    hp.HEAD_COUNT,
    hp.HEAD_COUNT_KV,
    hp.RMS_EPS,
    hp.partial_rope_dimension,
    hp.rope_theta,
    hp.FILE_TYPE,
    hp.sliding_window,
)
_PHI3_LAYER: dict[str, Shape] = {
    "attn_norm.weight": (n_embd,),
    "attn_qkv.weight": (n_qkv, n_embd),
    "attn_output.weight": (n_embd, n_q),
    "ffn_norm.weight": (n_embd,),
    "ffn_up.weight": (n_ff_2, n_embd),
    "ffn_down.weight": (n_embd, n_ff),
}

LLAMA = Family(
    title="Llama 1 (7B to 65B), Llama 2 (7B to 70B), Llama 3.x, Code Llama",
    classes=("LlamaForCausalLM", "LLaMAForCausalLM"),
    arch=MODEL_ARCH.LLAMA,
    source="conversion/llama.py LlamaModel",
    rules=_LLAMA_RULES,
    vocab=_SPM_FIRST,
    whole=_WHOLE,
    layers=(Layers(_ATTENTION | _DENSE),),
    optional=_QKV_BIAS | _DENSE_BIAS | {"attn_output.bias": (n_embd,)},
    bends=_INTERLEAVED,
    computed=llama3_factors,
    defaults=_ROPE
    | {
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": same_as("num_attention_heads"),
        "head_dim": even_head_dim,
    },
)

MISTRAL = Family(
    title="Mistral 7B v0.1 to v0.3",
    classes=("MistralForCausalLM",),
    arch=MODEL_ARCH.LLAMA,
    source="conversion/llama.py LlamaModel",
    rules=_LLAMA_RULES,
    vocab=_SPM_FIRST,
    whole=_WHOLE,
    layers=(Layers(_ATTENTION | _DENSE),),
    bends=_INTERLEAVED,
    computed=llama3_factors,
    defaults=_ROPE
    | {"max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "num_key_value_heads": 8, "head_dim": even_head_dim},
    computes=_WINDOW,
)

MIXTRAL = Family(
    title="Mixtral 8x7B and 8x22B",
    classes=("MixtralForCausalLM",),
    arch=MODEL_ARCH.LLAMA,
    source="conversion/llama.py LlamaModel",
    rules=_LLAMA_RULES,
    vocab=_SPM_FIRST,
    whole=_WHOLE,
    layers=(Layers(_ATTENTION | _MOE),),
    bends=_INTERLEAVED,
    experts=MIXTRAL_EXPERTS,
    splits=_MIXTRAL_FUSED,
    computed=llama3_factors,
    defaults={
        "rope_theta": 1e6,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    computes=_WINDOW,
)

PHI2 = Family(
    title="Phi-2",
    classes=("PhiForCausalLM",),
    arch=MODEL_ARCH.PHI2,
    source="conversion/phi.py Phi2Model",
    rules=_PHI2_RULES,
    vocab=(VocabKind.BPE,),
    whole=_WHOLE | {"output_norm.bias": (n_embd,), "output.bias": (n_vocab,)},
    layers=(Layers(_PHI2_LAYER),),
    defaults=_ROPE | {"partial_rotary_factor": 0.5, "layer_norm_eps": 1e-5, "max_position_embeddings": 2048},
    pre_alias={"gpt-2": "phi-2"},
    computes={"hidden_act": (None, *GELU_TANH), "partial_rotary_factor": ANY},
)

PHI3 = Family(
    title="Phi-3, Phi-3.5 and Phi-4 (text)",
    classes=("Phi3ForCausalLM",),
    arch=MODEL_ARCH.PHI3,
    source="conversion/phi.py Phi3MiniModel",
    before=(hp.longrope_attention_factor,),
    rules=_PHI3_RULES,
    vocab=(VocabKind.SPM_PHI3, VocabKind.BPE),
    whole=_WHOLE,
    layers=(Layers(_PHI3_LAYER),),
    computed=longrope_factors,
    defaults=_ROPE
    | {
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": same_as("num_attention_heads"),
        "partial_rotary_factor": 1.0,
    },
    computes=_WINDOW | {"partial_rotary_factor": ANY},
)

_QWEN_DEFAULTS = _ROPE | {"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "use_sliding_window": False}

QWEN2 = Family(
    title="Qwen2, Qwen2.5",
    classes=("Qwen2ForCausalLM",),
    arch=MODEL_ARCH.QWEN2,
    source="conversion/qwen.py Qwen2Model",
    rules=(*hp.COMMON, hp.FILE_TYPE),
    vocab=_SPM_OR_BPE,
    whole=_WHOLE,
    layers=(Layers(_ATTENTION | _QKV_BIAS | _DENSE),),
    defaults=_QWEN_DEFAULTS | {"num_key_value_heads": 32},
    computes=_WINDOW,
)

QWEN2_MOE = Family(
    title="Qwen1.5-MoE, Qwen2-MoE",
    classes=("Qwen2MoeForCausalLM",),
    arch=MODEL_ARCH.QWEN2MOE,
    source="conversion/qwen.py Qwen2MoeModel",
    rules=(*hp.COMMON, hp.FILE_TYPE, hp.EXPERT_FEED_FORWARD, hp.SHARED_FEED_FORWARD),
    vocab=(VocabKind.BPE,),
    whole=_WHOLE,
    layers=(Layers(_ATTENTION | _QKV_BIAS | _MOE | _SHARED_EXPERT),),
    experts=MLP_EXPERTS,
    splits=_MLP_FUSED,
    defaults=_QWEN_DEFAULTS
    | {
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    computes=_WINDOW | {"norm_topk_prob": (None, False)},
)

QWEN3 = Family(
    title="Qwen3",
    classes=("Qwen3ForCausalLM",),
    arch=MODEL_ARCH.QWEN3,
    source="conversion/qwen.py Qwen3Model",
    rules=(*hp.COMMON, hp.FILE_TYPE),
    vocab=_SPM_OR_BPE,
    whole=_WHOLE,
    layers=(Layers(_ATTENTION | _HEAD_NORMS | _DENSE),),
    optional=_QKV_BIAS,
    defaults=_QWEN_DEFAULTS | {"num_key_value_heads": 32, "head_dim": 128},
    computes=_WINDOW,
)

QWEN3_MOE = Family(
    title="Qwen3-MoE",
    classes=("Qwen3MoeForCausalLM",),
    arch=MODEL_ARCH.QWEN3MOE,
    source="conversion/qwen.py Qwen3MoeModel",
    rules=(*hp.COMMON, hp.FILE_TYPE, hp.EXPERT_FEED_FORWARD),
    vocab=(VocabKind.BPE,),
    whole=_WHOLE,
    layers=(Layers(_ATTENTION | _HEAD_NORMS | _MOE),),
    experts=MLP_EXPERTS,
    splits=_MLP_FUSED,
    defaults=_QWEN_DEFAULTS
    | {"num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    computes=_WINDOW | {"norm_topk_prob": (True,)},
)

OLMOE = Family(
    title="OLMoE",
    classes=("OlmoeForCausalLM",),
    arch=MODEL_ARCH.OLMOE,
    source="conversion/olmo.py OlmoeModel",
    rules=(*hp.COMMON, hp.FILE_TYPE, hp.fixed(Keys.Attention.LAYERNORM_RMS_EPS, GGUFValueType.FLOAT32, 1e-5)),
    vocab=(VocabKind.BPE,),
    whole=_WHOLE,
    layers=(Layers(_ATTENTION | _MOE | {"attn_q_norm.weight": (n_q,), "attn_k_norm.weight": (n_kv,)}),),
    experts=MLP_EXPERTS,
    splits=_MLP_FUSED,
    defaults=_ROPE
    | {
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": same_as("num_attention_heads"),
        "num_experts": 64,
        "num_experts_per_tok": 8,
    },
    computes={"norm_topk_prob": (None, False), "rms_norm_eps": (None, 1e-5)},
)

_POST_NORMS: dict[str, Shape] = {"post_attention_norm.weight": (n_embd,), "post_ffw_norm.weight": (n_embd,)}
_TIED: dict[str, Shape] = {name: _WHOLE[name] for name in ("token_embd.weight", "output_norm.weight")}
_NO_PREFIX = (hp.fixed(Keys.Tokenizer.ADD_PREFIX, GGUFValueType.BOOL, False),)
_GEMMA_COMPUTES: dict[str, Values] = (
    dict.fromkeys(("hidden_act", "hidden_activation"), (None, "gelu", *GELU_TANH))  # "gelu" means the same in them
    | dict.fromkeys(("sliding_window", "layer_types", "final_logit_softcapping", "query_pre_attn_scalar"), ANY)
)
_GEMMA_DEFAULTS: dict[str, Default] = {"rms_norm_eps": 1e-6, "head_dim": 256, "tie_word_embeddings": True}

GEMMA2 = Family(
    title="Gemma 2",
    classes=("Gemma2ForCausalLM",),
    arch=MODEL_ARCH.GEMMA2,
    source="conversion/gemma.py Gemma2Model",
    rules=(
        hp.CONTEXT_LENGTH,
        hp.EMBEDDING_LENGTH,
        hp.BLOCK_COUNT,
        hp.FEED_FORWARD_LENGTH,
        hp.HEAD_COUNT,
        hp.HEAD_COUNT_KV,
        hp.RMS_EPS,
        *hp.HEAD_LENGTHS,
        hp.FILE_TYPE,
        hp.f32(Keys.LLM.ATTN_LOGIT_SOFTCAPPING, "attn_logit_softcapping", required=True),
        hp.f32(Keys.LLM.FINAL_LOGIT_SOFTCAPPING, "final_logit_softcapping", required=True),
        hp.u32(Keys.Attention.SLIDING_WINDOW, "sliding_window", required=True),
        hp.window_pattern(2),
        hp.gemma_scale(46),
    ),
    vocab=(VocabKind.SPM, VocabKind.LLAMA_HF),
    after=_NO_PREFIX,
    whole=_TIED,
    layers=(Layers(_ATTENTION | _DENSE | _POST_NORMS),),
    bends={"*norm.weight": changed(plus_one)},
    defaults=_GEMMA_DEFAULTS | {"max_position_embeddings": 8192, "num_key_value_heads": 4},
    computes=_GEMMA_COMPUTES | {"attn_logit_softcapping": ANY},
)

GEMMA3 = Family(
    title="Gemma 3 (the language model)",
    classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    arch=MODEL_ARCH.GEMMA3,
    source="conversion/gemma.py Gemma3Model",
    rules=(
        *hp.COMMON,
        hp.FILE_TYPE,
        hp.f32(Keys.LLM.FINAL_LOGIT_SOFTCAPPING, "final_logit_softcapping"),
        hp.u32(Keys.Attention.SLIDING_WINDOW, "sliding_window", required=True),
        hp.window_pattern(6),
        hp.gemma_scale(62),
    ),
    vocab=(VocabKind.SPM, VocabKind.LLAMA_HF),
    after=_NO_PREFIX,
    whole=_WHOLE,
    layers=(Layers(_ATTENTION | _DENSE | _POST_NORMS | _HEAD_NORMS),),
    bends={"*norm.weight": changed(plus_one)},
    defaults=_GEMMA_DEFAULTS
    | {"max_position_embeddings": 131072, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208}
    | {"rope_theta": 1e6, "rope_local_base_freq": 10000.0, "sliding_window": 4096},
    computes=_GEMMA_COMPUTES,
)

_SHARED_EXPERTS: dict[str, Shape] = {
    "ffn_gate_shexp.weight": (n_ff_shexp, n_embd),
    "ffn_up_shexp.weight": (n_ff_shexp, n_embd),
    "ffn_down_shexp.weight": (n_embd, n_ff_shexp),
}
_MLA: dict[str, Shape] = {
    "attn_norm.weight": (n_embd,),
    "attn_kv_a_mqa.weight": (n_kv_a, n_embd),
    "attn_kv_a_norm.weight": (kv_lora_rank,),
    "attn_k_b.weight": (n_head, kv_lora_rank, n_nope),
    "attn_v_b.weight": (n_head, n_head_v, kv_lora_rank),
    "attn_output.weight": (n_embd, n_o_mla),
    "ffn_norm.weight": (n_embd,),
}
_Q_WHOLE: dict[str, Shape] = {"attn_q.weight": (n_q_mla, n_embd)}
_Q_LORA: dict[str, Shape] = {
    "attn_q_a.weight": (q_lora_rank, n_embd),
    "attn_q_a_norm.weight": (q_lora_rank,),
    "attn_q_b.weight": (n_q_mla, q_lora_rank),
}

_DEEPSEEK_EXPERTS = (
    hp.u32(Keys.LLM.EXPERT_SHARED_COUNT, "n_shared_experts", low=0),
    hp.f32(Keys.LLM.EXPERT_WEIGHTS_SCALE, "routed_scaling_factor"),
    hp.boolean(Keys.LLM.EXPERT_WEIGHTS_NORM, "norm_topk_prob"),
)
_DEEPSEEK_COMPUTES: dict[str, Values] = dict.fromkeys((
    "kv_lora_rank", "q_lora_rank", "first_k_dense_replace", "n_shared_experts", "routed_scaling_factor", "n_group",
    "topk_group", "topk_method", "norm_topk_prob", "scoring_func", "mscale", "mscale_all_dim", "rope_interleave",
), ANY)  # fmt: skip
_MLA_LAYERS = (
    Layers(_MLA),
    Layers(_Q_WHOLE, lambda config, _: config.get("q_lora_rank") is None),
    Layers(_Q_LORA, lambda config, _: config.get("q_lora_rank") is not None),
    Layers(_DENSE, is_dense),
    Layers(_MOE | _SHARED_EXPERTS, is_sparse),
)

DEEPSEEK = Family(
    title="DeepSeek V2, V3, R1",
    classes=("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
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
        *_DEEPSEEK_EXPERTS,
        hp.u32(Keys.Rope.DIMENSION_COUNT, "qk_rope_head_dim"),
        hp.yarn_log_multiplier,
    ),
    vocab=(VocabKind.BPE,),
    whole=_WHOLE,
    layers=_MLA_LAYERS,
    optional={"exp_probs_b.bias": (n_expert,)},
    splits=_MLP_FUSED | {"self_attn.kv_b_proj": absorbed(n_head, n_nope, "attn_k_b.weight", "attn_v_b.weight")},
    beyond="the block that guesses further tokens: llama.cpp does not run it for this family",
    experts=MLP_EXPERTS,
    defaults=_ROPE
    | {"rms_norm_eps": 1e-6, "head_dim": same_as("qk_rope_head_dim"), "scoring_func": deepseek_scoring}
    | {"num_experts_per_tok": 8, "moe_intermediate_size": 1407, "n_shared_experts": 2},
    computes=_DEEPSEEK_COMPUTES,
)

_MTP_NAMES = {
    "fc": "eh_proj",
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "norm": "shared_head.norm",
}
_MTP_SPLITS = {
    "eh_proj": renamed("nextn.eh_proj.weight"),
    "enorm": renamed("nextn.enorm.weight"),
    "hnorm": renamed("nextn.hnorm.weight"),
    "shared_head.norm": renamed("nextn.shared_head_norm.weight"),
}
_MTP: dict[str, Shape] = {
    "nextn.eh_proj.weight": (n_embd, n_embd_2),
    "nextn.enorm.weight": (n_embd,),
    "nextn.hnorm.weight": (n_embd,),
    "nextn.shared_head_norm.weight": (n_embd,),
}
_GATED_ATTENTION: dict[str, Shape] = {
    "attn_q.weight": (n_q_2, n_embd),
    "attn_k.weight": (n_kv, n_embd),
    "attn_v.weight": (n_kv, n_embd),
    "attn_output.weight": (n_embd, n_q),
} | _HEAD_NORMS
_DELTA: dict[str, Shape] = {
    "attn_qkv.weight": (n_delta_qkv, n_embd),
    "attn_gate.weight": (n_delta_values, n_embd),
    "ssm_conv1d.weight": (n_delta_qkv, n_conv),
    "ssm_dt.bias": (n_delta_v,),
    "ssm_a": (n_delta_v,),
    "ssm_norm.weight": (delta_v_dim,),
    "ssm_out.weight": (n_embd, n_delta_values),
}
_ALPHA_BETA: dict[str, Shape] = {"ssm_alpha.weight": (n_delta_v, n_embd), "ssm_beta.weight": (n_delta_v, n_embd)}
_BOTH_NORMS: dict[str, Shape] = {"attn_norm.weight": (n_embd,), "post_attention_norm.weight": (n_embd,)}
_DELTA_RULES = (hp.mtp_layers, hp.delta_net, hp.rope_share)
_DELTA_COMPUTES: dict[str, Values] = {"attn_output_gate": (None, True)} | dict.fromkeys(
    ("layer_types", "partial_rotary_factor", "mrope_interleaved"), ANY
)
_DELTA_DEFAULTS: dict[str, Default] = {
    "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "head_dim": 256, "rope_theta": 10000.0,
    "partial_rotary_factor": 0.25, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
}  # fmt: skip

QWEN3_NEXT = Family(
    title="Qwen3-Next",
    classes=("Qwen3NextForCausalLM",),
    arch=MODEL_ARCH.QWEN3NEXT,
    source="conversion/qwen.py Qwen3NextModel",
    rules=(*hp.COMMON, hp.FILE_TYPE, hp.EXPERT_FEED_FORWARD, hp.SHARED_FEED_FORWARD, *_DELTA_RULES),
    vocab=(VocabKind.BPE,),
    whole=_WHOLE,
    layers=(
        Layers(_BOTH_NORMS | _MOE | _SHARED_EXPERT),
        Layers(_GATED_ATTENTION, is_full),
        Layers(_DELTA | {"ssm_ba.weight": (n_delta_v_2, n_embd)}, is_linear),
        Layers(_MTP, is_mtp),
    ),
    experts=MLP_EXPERTS,
    splits=_MLP_FUSED | SPLIT_QKVZ | _MTP_SPLITS,
    bends=PLAIN | NORMS,
    renames={r"\.dt_bias$": ".dt_proj.bias"},
    mtp=_MTP_NAMES,
    computes=_DELTA_COMPUTES,
    defaults=_DELTA_DEFAULTS
    | {"num_key_value_heads": 2, "num_experts": 512, "num_experts_per_tok": 10}
    | {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512},
)

QWEN35 = Family(
    title="Qwen3.5, 3.6, 3.8 (dense; the language model)",
    classes=("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"),
    arch=MODEL_ARCH.QWEN35,
    source="conversion/qwen.py Qwen3_5TextModel",
    rules=(*hp.COMMON, hp.FILE_TYPE, *_DELTA_RULES, hp.default_rope_sections),
    vocab=(VocabKind.BPE,),
    whole=_WHOLE,
    layers=(
        Layers(_BOTH_NORMS | _DENSE),
        Layers(_GATED_ATTENTION, is_full),
        Layers(_DELTA | _ALPHA_BETA, is_linear),
        Layers(_MTP, is_mtp),
    ),
    splits=_MTP_SPLITS,
    bends=IN_TURN | NORMS,
    renames={r"\.dt_bias$": ".dt_proj.bias"},
    mtp=_MTP_NAMES,
    computes=_DELTA_COMPUTES,
    defaults=_DELTA_DEFAULTS | {"num_key_value_heads": 4},
)

QWEN35_MOE = Family(
    title="Qwen3.5-MoE, 3.6, 3.8 (the language model)",
    classes=("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"),
    arch=MODEL_ARCH.QWEN35MOE,
    source="conversion/qwen.py Qwen3_5MoeTextModel",
    rules=(
        *hp.COMMON, hp.FILE_TYPE, hp.EXPERT_FEED_FORWARD, hp.SHARED_FEED_FORWARD, *_DELTA_RULES,
        hp.default_rope_sections,
    ),
    vocab=(VocabKind.BPE,),
    whole=_WHOLE,
    layers=(
        Layers(_BOTH_NORMS | _MOE | _SHARED_EXPERT),
        Layers(_GATED_ATTENTION, is_full),
        Layers(_DELTA | _ALPHA_BETA, is_linear),
        Layers(_MTP, is_mtp),
    ),
    experts=MLP_EXPERTS,
    splits=_MLP_FUSED | _MTP_SPLITS,
    bends=IN_TURN | NORMS,
    renames={r"\.dt_bias$": ".dt_proj.bias"},
    mtp=_MTP_NAMES,
    computes=_DELTA_COMPUTES,
    defaults=_DELTA_DEFAULTS | {"num_key_value_heads": 2, "num_experts": 256, "num_experts_per_tok": 8},
)  # fmt: skip

_SINKS: dict[str, Shape] = (
    {name: _ATTENTION[name] for name in _ATTENTION if name != "ffn_norm.weight"}
    | _QKV_BIAS
    | {"attn_output.bias": (n_embd,), "attn_sinks.weight": (n_head,), "post_attention_norm.weight": (n_embd,)}
)
_MOE_BIAS: dict[str, Shape] = {
    "ffn_gate_inp.bias": (n_expert,),
    "ffn_gate_exps.bias": (n_expert, n_ff_expert),
    "ffn_up_exps.bias": (n_expert, n_ff_expert),
    "ffn_down_exps.bias": (n_expert, n_embd),
}

# YaRN's limits are rounded by llama.cpp whatever `truncate` says, which moves a frequency or two a little
_GPT_OSS_COMPUTES: dict[str, Values] = {"swiglu_limit": (None, 7.0)} | dict.fromkeys(
    ("layer_types", "sliding_window", "truncate", "experts_per_token"), ANY
)

GPT_OSS = Family(
    title="gpt-oss 20b and 120b",
    classes=("GptOssForCausalLM",),
    arch=MODEL_ARCH.GPT_OSS,
    source="conversion/gpt_oss.py GptOssModel",
    rules=(
        *hp.COMMON,
        hp.FILE_TYPE,
        hp.u32(Keys.Attention.SLIDING_WINDOW, "sliding_window", required=True),
        hp.u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "intermediate_size"),
        hp.window_pattern(2),
    ),
    vocab=(VocabKind.BPE,),
    whole=_WHOLE,
    layers=(Layers(_SINKS | _MOE | _MOE_BIAS),),
    splits={
        "mlp.experts.gate_up_proj": every_second(("ffn_gate_exps.weight", "ffn_up_exps.weight")),
        "mlp.experts.gate_up_proj_bias": every_second_column(("ffn_gate_exps.bias", "ffn_up_exps.bias")),
        "mlp.experts.down_proj": transposed("ffn_down_exps.weight"),
        "mlp.experts.down_proj_bias": renamed("ffn_down_exps.bias"),
    },
    renames={r"\.sinks$": ".sinks.weight"},
    computes=_GPT_OSS_COMPUTES,
    defaults={"rms_norm_eps": 1e-5, "head_dim": 64, "num_key_value_heads": 8, "sliding_window": 128}
    | {"num_local_experts": 128, "num_experts_per_tok": 4, "rope_theta": 150000.0, "max_position_embeddings": 131072},
)

FAMILIES = (
    LLAMA,
    MISTRAL,
    MIXTRAL,
    PHI2,
    PHI3,
    QWEN2,
    QWEN2_MOE,
    QWEN3,
    QWEN3_MOE,
    OLMOE,
    GEMMA2,
    GEMMA3,
    DEEPSEEK,
    QWEN3_NEXT,
    QWEN35,
    QWEN35_MOE,
    GPT_OSS,
)
