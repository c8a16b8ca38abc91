"""OLMo."""

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY
from ggufkit.architectures.config import same_as, theta_where_windowed
from ggufkit.architectures.families.parts import ATTENTION, DENSE, MLP_FUSED, MOE, ROPE, WHOLE
from ggufkit.architectures.family import MLP_EXPERTS, Family, Layers, Shape
from ggufkit.architectures.sizes import n_embd, n_kv, n_q
from ggufkit.tokenizer import VocabKind

OLMOE = Family(
    title="OLMoE",
    classes=("OlmoeForCausalLM",),
    arch=MODEL_ARCH.OLMOE,
    source="conversion/olmo.py OlmoeModel",
    rules=(*hp.COMMON, hp.FILE_TYPE, hp.fixed(Keys.Attention.LAYERNORM_RMS_EPS, GGUFValueType.FLOAT32, 1e-5)),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(Layers(ATTENTION | MOE | {"attn_q_norm.weight": (n_q,), "attn_k_norm.weight": (n_kv,)}),),
    experts=MLP_EXPERTS,
    splits=MLP_FUSED,
    defaults=ROPE
    | {
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": same_as("num_attention_heads"),
        "num_experts": 64,
        "num_experts_per_tok": 8,
    },
    computes={"norm_topk_prob": (None, False), "rms_norm_eps": (None, 1e-5)},
)

OLMO2_ATTENTION: dict[str, Shape] = {
    name: ATTENTION[name] for name in ATTENTION if name not in ("attn_norm.weight", "ffn_norm.weight")
} | {
    "attn_q_norm.weight": (n_q,),
    "attn_k_norm.weight": (n_kv,),
    "post_attention_norm.weight": (n_embd,),
    "post_ffw_norm.weight": (n_embd,),
}

OLMO2 = Family(
    title="OLMo 2, OLMo 3",
    classes=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    arch=MODEL_ARCH.OLMO2,
    source="conversion/olmo.py Olmo2Model",
    rules=(*hp.COMMON, hp.FILE_TYPE, hp.olmo3_window),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(Layers(OLMO2_ATTENTION | DENSE),),
    computes=dict.fromkeys(("layer_types", "sliding_window"), ANY),
    defaults=ROPE
    | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "num_key_value_heads": same_as("num_attention_heads")}
    | {"rope_local_base_freq": theta_where_windowed},
)
