"""Qwen 1.5 to 3: attention in every layer."""

from gguf import MODEL_ARCH

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.families.parts import (
    ATTENTION,
    DENSE,
    HEAD_NORMS,
    MLP_FUSED,
    MOE,
    QKV_BIAS,
    ROPE,
    SHARED_EXPERT,
    WHOLE,
    WINDOWED,
)
from ggufkit.architectures.family import (
    MLP_EXPERTS,
    Family,
    Layers,
)
from ggufkit.tokenizer import VocabKind

SPM_OR_BPE = (VocabKind.SPM, VocabKind.BPE)

QWEN_DEFAULTS = ROPE | {"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "use_sliding_window": False}

QWEN2 = Family(
    title="Qwen2, Qwen2.5",
    classes=("Qwen2ForCausalLM",),
    arch=MODEL_ARCH.QWEN2,
    source="conversion/qwen.py Qwen2Model",
    rules=(*hp.COMMON, hp.FILE_TYPE),
    vocab=SPM_OR_BPE,
    whole=WHOLE,
    layers=(Layers(ATTENTION | QKV_BIAS | DENSE),),
    defaults=QWEN_DEFAULTS | {"num_key_value_heads": 32},
    computes=WINDOWED,
)

QWEN2_MOE = Family(
    title="Qwen1.5-MoE, Qwen2-MoE",
    classes=("Qwen2MoeForCausalLM",),
    arch=MODEL_ARCH.QWEN2MOE,
    source="conversion/qwen.py Qwen2MoeModel",
    rules=(*hp.COMMON, hp.FILE_TYPE, hp.EXPERT_FEED_FORWARD, hp.SHARED_FEED_FORWARD),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(Layers(ATTENTION | QKV_BIAS | MOE | SHARED_EXPERT),),
    experts=MLP_EXPERTS,
    splits=MLP_FUSED,
    defaults=QWEN_DEFAULTS
    | {
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    computes=WINDOWED | {"norm_topk_prob": (None, False)},
)

QWEN3 = Family(
    title="Qwen3",
    classes=("Qwen3ForCausalLM",),
    arch=MODEL_ARCH.QWEN3,
    source="conversion/qwen.py Qwen3Model",
    rules=(*hp.COMMON, hp.FILE_TYPE),
    vocab=SPM_OR_BPE,
    whole=WHOLE,
    layers=(Layers(ATTENTION | HEAD_NORMS | DENSE),),
    optional=QKV_BIAS,
    defaults=QWEN_DEFAULTS | {"num_key_value_heads": 32, "head_dim": 128},
    computes=WINDOWED,
)

QWEN3_MOE = Family(
    title="Qwen3-MoE",
    classes=("Qwen3MoeForCausalLM",),
    arch=MODEL_ARCH.QWEN3MOE,
    source="conversion/qwen.py Qwen3MoeModel",
    rules=(*hp.COMMON, hp.FILE_TYPE, hp.EXPERT_FEED_FORWARD),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(Layers(ATTENTION | HEAD_NORMS | MOE),),
    experts=MLP_EXPERTS,
    splits=MLP_FUSED,
    defaults=QWEN_DEFAULTS
    | {"num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    computes=WINDOWED | {"norm_topk_prob": (True,)},
)
