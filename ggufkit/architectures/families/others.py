"""Families of one entry: MiniMax M2, Seed-OSS, StarCoder 2."""

from gguf import MODEL_ARCH, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY, GELU_TANH
from ggufkit.architectures.families.llama import MIXTRAL_FUSED
from ggufkit.architectures.families.parts import ATTENTION, DENSE, MOE, QKV_BIAS, ROPE, WHOLE, WINDOWED
from ggufkit.architectures.family import MIXTRAL_EXPERTS, Family, Layers, Shape
from ggufkit.architectures.sizes import n_embd, n_expert, n_ff, n_kv, n_q
from ggufkit.tokenizer import VocabKind

ATTENTION_ALONE = {name: ATTENTION[name] for name in ATTENTION if name != "ffn_norm.weight"}
STARCODER2_LAYER: dict[str, Shape] = ATTENTION | {
    "ffn_up.weight": (n_ff, n_embd),
    "ffn_down.weight": (n_embd, n_ff),
    "attn_norm.bias": (n_embd,),
    "ffn_norm.bias": (n_embd,),
}

MINIMAX_M2 = Family(
    title="MiniMax M2",
    classes=("MiniMaxM2ForCausalLM",),
    arch=MODEL_ARCH.MINIMAXM2,
    source="conversion/minimax.py MiniMaxM2Model",
    rules=(
        *hp.COMMON,
        hp.FILE_TYPE,
        hp.u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "intermediate_size", required=True),
        hp.u32(Keys.Rope.DIMENSION_COUNT, "rotary_dim", required=True),
    ),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(Layers(ATTENTION | MOE | {"attn_q_norm.weight": (n_q,), "attn_k_norm.weight": (n_kv,)}),),
    optional={"exp_probs_b.bias": (n_expert,)},
    experts=MIXTRAL_EXPERTS,
    splits=MIXTRAL_FUSED,
    pre_alias={"gpt-4o": "minimax-m2"},
    computes={"scoring_func": ("sigmoid",), "use_qk_norm": (None, True), "qk_norm_type": (None, "per_layer")}
    | dict.fromkeys(("rotary_dim", "partial_rotary_factor", "use_routing_bias"), ANY),
    defaults={"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6, "rope_theta": 5000000.0}
    | {
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 196608,
        "scoring_func": "sigmoid",
    },
)

SEED_OSS = Family(
    title="Seed-OSS",
    classes=("SeedOssForCausalLM",),
    arch=MODEL_ARCH.SEED_OSS,
    source="conversion/olmo.py SeedOssModel",
    rules=(*hp.COMMON, hp.FILE_TYPE),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(Layers(ATTENTION_ALONE | DENSE | {"post_attention_norm.weight": (n_embd,)}),),
    optional=QKV_BIAS | {"attn_output.bias": (n_embd,)},
    computes={"attention_out_bias": ANY},
    defaults=ROPE
    | {"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6, "max_position_embeddings": 524288},
)

STARCODER2 = Family(
    title="StarCoder 2",
    classes=("Starcoder2ForCausalLM",),
    arch=MODEL_ARCH.STARCODER2,
    source="conversion/starcoder.py StarCoder2Model",
    rules=(*hp.COMMON, hp.FILE_TYPE),
    vocab=(VocabKind.BPE,),
    whole=WHOLE | {"output_norm.bias": (n_embd,)},
    layers=(Layers(STARCODER2_LAYER),),
    optional=QKV_BIAS | {"attn_output.bias": (n_embd,), "ffn_up.bias": (n_ff,), "ffn_down.bias": (n_embd,)},
    pre_alias={"smollm": "starcoder"},
    computes=WINDOWED | {"hidden_act": (None, *GELU_TANH)},
    defaults=ROPE
    | {"num_key_value_heads": 2, "norm_epsilon": 1e-5, "max_position_embeddings": 4096, "tie_word_embeddings": True},
)
