"""OLMo."""

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.config import same_as
from ggufkit.architectures.families.parts import ATTENTION, MLP_FUSED, MOE, ROPE, WHOLE
from ggufkit.architectures.family import (
    MLP_EXPERTS,
    Family,
    Layers,
    n_kv,
    n_q,
)
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
