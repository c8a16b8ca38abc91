"""Phi."""

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY, GELU_TANH
from ggufkit.architectures.config import same_as
from ggufkit.architectures.families.parts import ATTENTION, QKV_BIAS, ROPE, WHOLE, WINDOWED
from ggufkit.architectures.family import Family, Layers, Shape
from ggufkit.architectures.rope import longrope_factors
from ggufkit.architectures.sizes import n_embd, n_ff, n_ff_2, n_q, n_qkv, n_vocab
from ggufkit.tokenizer import VocabKind

PHI2_RULES = (
    hp.CONTEXT_LENGTH,
    hp.EMBEDDING_LENGTH,
    hp.feed_forward_4x,
    hp.block_count,
    hp.HEAD_COUNT,
    hp.u32(Keys.Attention.HEAD_COUNT_KV, "num_attention_heads"),
    hp.LAYER_NORM_EPS,
    hp.partial_rope_dimension,
    hp.FILE_TYPE,
    hp.fixed(Keys.Tokenizer.ADD_BOS, GGUFValueType.BOOL, False),
)

PHI2_LAYER: dict[str, Shape] = (
    {name: ATTENTION[name] for name in ATTENTION if name != "ffn_norm.weight"}
    | {"attn_norm.bias": (n_embd,), "attn_output.bias": (n_embd,), "ffn_up.bias": (n_ff,), "ffn_down.bias": (n_embd,)}
    | {"ffn_up.weight": (n_ff, n_embd), "ffn_down.weight": (n_embd, n_ff)}
    | QKV_BIAS
)

PHI3_RULES = (
    hp.CONTEXT_LENGTH,
    hp.original_context,
    hp.EMBEDDING_LENGTH,
    hp.FEED_FORWARD_LENGTH,
    hp.block_count,
    hp.HEAD_COUNT,
    hp.HEAD_COUNT_KV,
    hp.RMS_EPS,
    hp.partial_rope_dimension,
    hp.rope_theta,
    hp.FILE_TYPE,
    hp.sliding_window,
)

PHI3_LAYER: dict[str, Shape] = {
    "attn_norm.weight": (n_embd,),
    "attn_qkv.weight": (n_qkv, n_embd),
    "attn_output.weight": (n_embd, n_q),
    "ffn_norm.weight": (n_embd,),
    "ffn_up.weight": (n_ff_2, n_embd),
    "ffn_down.weight": (n_embd, n_ff),
}

PHI2 = Family(
    title="Phi-2",
    classes=("PhiForCausalLM",),
    arch=MODEL_ARCH.PHI2,
    source="conversion/phi.py Phi2Model",
    rules=PHI2_RULES,
    vocab=(VocabKind.BPE,),
    whole=WHOLE | {"output_norm.bias": (n_embd,), "output.bias": (n_vocab,)},
    layers=(Layers(PHI2_LAYER),),
    defaults=ROPE | {"partial_rotary_factor": 0.5, "layer_norm_eps": 1e-5, "max_position_embeddings": 2048},
    pre_alias={"gpt-2": "phi-2"},
    computes={"hidden_act": (None, *GELU_TANH), "partial_rotary_factor": ANY},
)

PHI3 = Family(
    title="Phi-3, Phi-3.5 and Phi-4 (text)",
    classes=("Phi3ForCausalLM",),
    arch=MODEL_ARCH.PHI3,
    source="conversion/phi.py Phi3MiniModel",
    before=(hp.longrope_attention_factor,),
    rules=PHI3_RULES,
    vocab=(VocabKind.SPM_PHI3, VocabKind.BPE),
    whole=WHOLE,
    layers=(Layers(PHI3_LAYER),),
    computed=longrope_factors,
    defaults=ROPE
    | {
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": same_as("num_attention_heads"),
        "partial_rotary_factor": 1.0,
    },
    computes=WINDOWED | {"partial_rotary_factor": ANY},
)
