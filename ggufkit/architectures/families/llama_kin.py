"""Models that are Llamas but for a number or two: SmolLM3, Granite, Ministral 3."""

from gguf import MODEL_ARCH, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY, Values
from ggufkit.architectures.bends import halves, stacked_rows
from ggufkit.architectures.config import Default, even_head_dim, same_as
from ggufkit.architectures.families.llama import DENSE_BIAS, INTERLEAVED, LLAMA_RULES, SPM_FIRST
from ggufkit.architectures.families.parts import ATTENTION, DENSE, MOE, QKV_BIAS, ROPE, WHOLE
from ggufkit.architectures.family import Family, Layers, Shape
from ggufkit.architectures.rope import llama3_factors
from ggufkit.architectures.sizes import n_embd, n_ff_shared_granite
from ggufkit.tokenizer import VocabKind

OUTPUT_BIAS: dict[str, Shape] = {"attn_output.bias": (n_embd,)}
GRANITE_SCALES = (
    hp.f32(Keys.Attention.SCALE, "attention_multiplier"),
    hp.f32(Keys.LLM.EMBEDDING_SCALE, "embedding_multiplier"),
    hp.f32(Keys.LLM.RESIDUAL_SCALE, "residual_multiplier"),
    hp.f32(Keys.LLM.LOGIT_SCALE, "logits_scaling"),
)
GRANITE_RULES = (*hp.COMMON_BUT_HEADS, hp.FILE_TYPE, hp.VOCAB_SIZE, hp.rope_dimension, *GRANITE_SCALES)
GRANITE_COMPUTES: dict[str, Values] = dict.fromkeys(
    ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"), ANY
)
GRANITE_DEFAULTS: dict[str, Default] = ROPE | {
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "num_key_value_heads": same_as("num_attention_heads"),
    "attention_multiplier": 1.0, "embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0,
}  # fmt: skip
GRANITE_CUTS = {"smollm": "refact"}
SHARED_MLP: dict[str, Shape] = {
    "ffn_gate_shexp.weight": (n_ff_shared_granite, n_embd),
    "ffn_up_shexp.weight": (n_ff_shared_granite, n_embd),
    "ffn_down_shexp.weight": (n_embd, n_ff_shared_granite),
}

SMOLLM3 = Family(
    title="SmolLM3",
    classes=("SmolLM3ForCausalLM",),
    arch=MODEL_ARCH.SMOLLM3,
    source="conversion/llama.py SmolLM3Model",
    rules=(*LLAMA_RULES, hp.nope_pattern(4)),
    vocab=SPM_FIRST,
    whole=WHOLE,
    layers=(Layers(ATTENTION | DENSE),),
    optional=QKV_BIAS | DENSE_BIAS | OUTPUT_BIAS,
    bends=INTERLEAVED,
    computes=dict.fromkeys(("no_rope_layers", "no_rope_layer_interval"), ANY),
    defaults={"rope_theta": 2000000.0, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6}
    | {"num_key_value_heads": 4, "tie_word_embeddings": True},
)

GRANITE = Family(
    title="Granite 3 (dense)",
    classes=("GraniteForCausalLM",),
    arch=MODEL_ARCH.GRANITE,
    source="conversion/granite.py GraniteModel",
    rules=GRANITE_RULES,
    vocab=SPM_FIRST,
    whole=WHOLE,
    layers=(Layers(ATTENTION | DENSE),),
    optional=QKV_BIAS | DENSE_BIAS | OUTPUT_BIAS,
    bends=INTERLEAVED,
    computes=GRANITE_COMPUTES,
    pre_alias=GRANITE_CUTS,
    defaults=GRANITE_DEFAULTS,
)

GRANITE_MOE = Family(
    title="Granite 3 MoE",
    classes=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    arch=MODEL_ARCH.GRANITE_MOE,
    source="conversion/granite.py GraniteMoeModel",
    rules=(*GRANITE_RULES, hp.u32(Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, "shared_intermediate_size", low=0)),
    vocab=SPM_FIRST,
    whole=WHOLE,
    layers=(
        Layers(ATTENTION | MOE),
        Layers(SHARED_MLP, lambda config, _: bool(config.get("shared_intermediate_size"))),
    ),
    optional=QKV_BIAS | OUTPUT_BIAS,
    splits={
        "block_sparse_moe.input_linear": halves("ffn_gate_exps.weight", "ffn_up_exps.weight"),
        "shared_mlp.input_linear": stacked_rows("ffn_gate_shexp.weight", "ffn_up_shexp.weight"),
    },
    bends=INTERLEAVED,
    computes=GRANITE_COMPUTES,
    pre_alias=GRANITE_CUTS,
    defaults=GRANITE_DEFAULTS | {"num_local_experts": 8, "num_experts_per_tok": 2},
)

MINISTRAL3 = Family(
    title="Mistral Small 3.1, 3.2; Ministral 3 (the language model)",
    classes=("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
    arch=MODEL_ARCH.MISTRAL3,
    source="conversion/mistral3.py Mistral3Model",
    rules=(*LLAMA_RULES, hp.ministral3),
    vocab=(VocabKind.BPE, VocabKind.MISTRAL),
    whole=WHOLE,
    layers=(Layers(ATTENTION | DENSE),),
    bends=INTERLEAVED,
    computed=llama3_factors,
    computes=dict.fromkeys(("mscale", "mscale_all_dim", "llama_4_scaling_beta", "spatial_merge_size"), ANY),
    defaults=ROPE
    | {"max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "head_dim": even_head_dim},
)
