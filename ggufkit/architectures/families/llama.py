"""Llama, Mistral, Mixtral."""

from gguf import MODEL_ARCH

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY
from ggufkit.architectures.bends import (
    interleaved,
)
from ggufkit.architectures.config import even_head_dim, same_as
from ggufkit.architectures.families.parts import (
    ATTENTION,
    DENSE,
    FUSED,
    MLP_FUSED,
    MOE,
    QKV_BIAS,
    ROPE,
    WHOLE,
    WINDOWED,
)
from ggufkit.architectures.family import MIXTRAL_EXPERTS, Family, Layers, Shape
from ggufkit.architectures.rope import llama3_factors
from ggufkit.architectures.sizes import n_embd, n_ff, n_head, n_head_kv
from ggufkit.tokenizer import VocabKind

SPM_FIRST = (VocabKind.SPM, VocabKind.LLAMA_HF, VocabKind.BPE, VocabKind.MISTRAL)

DENSE_BIAS: dict[str, Shape] = {"ffn_gate.bias": (n_ff,), "ffn_up.bias": (n_ff,), "ffn_down.bias": (n_embd,)}

MIXTRAL_FUSED = MLP_FUSED | {f"block_sparse_moe.experts.{name}": split for name, split in FUSED.items()}

INTERLEAVED = {"attn_q.*": interleaved(n_head), "attn_k.*": interleaved(n_head_kv)}

LLAMA_RULES = (*hp.COMMON, hp.FILE_TYPE, hp.VOCAB_SIZE, hp.rope_dimension)

LLAMA = Family(
    title="Llama 1 (7B to 65B), Llama 2 (7B to 70B), Llama 3.x, Code Llama",
    classes=("LlamaForCausalLM", "LLaMAForCausalLM"),
    arch=MODEL_ARCH.LLAMA,
    source="conversion/llama.py LlamaModel",
    rules=LLAMA_RULES,
    vocab=SPM_FIRST,
    whole=WHOLE,
    layers=(Layers(ATTENTION | DENSE),),
    optional=QKV_BIAS | DENSE_BIAS | {"attn_output.bias": (n_embd,)},
    bends=INTERLEAVED,
    computed=llama3_factors,
    defaults=ROPE
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
    rules=LLAMA_RULES,
    vocab=SPM_FIRST,
    whole=WHOLE,
    layers=(Layers(ATTENTION | DENSE),),
    optional=QKV_BIAS | DENSE_BIAS | {"attn_output.bias": (n_embd,)},  # zeros, which AutoGPTQ writes for every matrix
    bends=INTERLEAVED,
    computed=llama3_factors,
    defaults=ROPE
    | {"max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "num_key_value_heads": 8, "head_dim": even_head_dim},
    computes=WINDOWED,
)

MIXTRAL = Family(
    title="Mixtral 8x7B and 8x22B",
    classes=("MixtralForCausalLM",),
    arch=MODEL_ARCH.LLAMA,
    source="conversion/llama.py LlamaModel",
    rules=LLAMA_RULES,
    vocab=SPM_FIRST,
    whole=WHOLE,
    layers=(Layers(ATTENTION | MOE),),
    bends=INTERLEAVED,
    experts=MIXTRAL_EXPERTS,
    splits=MIXTRAL_FUSED,
    computed=llama3_factors,
    defaults={
        "rope_theta": 1e6,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    computes=WINDOWED | {"norm_topk_prob": ANY},  # not read: the weights of chosen experts always sum to one
)
