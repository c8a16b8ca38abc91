"""Gemma: norms stored as the distance from 1."""

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY, GELU_TANH, Values
from ggufkit.architectures.bends import (
    changed,
)
from ggufkit.architectures.config import Default
from ggufkit.architectures.families.parts import ATTENTION, DENSE, HEAD_NORMS, TIED, WHOLE
from ggufkit.architectures.family import Family, Layers, Shape
from ggufkit.architectures.sizes import n_embd
from ggufkit.formats.bend import plus_one
from ggufkit.tokenizer import VocabKind

POST_NORMS: dict[str, Shape] = {"post_attention_norm.weight": (n_embd,), "post_ffw_norm.weight": (n_embd,)}


NO_PREFIX = (hp.fixed(Keys.Tokenizer.ADD_PREFIX, GGUFValueType.BOOL, False),)

GEMMA_COMPUTES: dict[str, Values] = (
    {"hidden_act": ANY, "hidden_activation": (None, *GELU_TANH)}  # transformers does not read the first
    | dict.fromkeys(("sliding_window", "layer_types", "final_logit_softcapping", "query_pre_attn_scalar"), ANY)
)

GEMMA_DEFAULTS: dict[str, Default] = {"rms_norm_eps": 1e-6, "head_dim": 256, "tie_word_embeddings": True}

GEMMA2 = Family(
    title="Gemma 2",
    classes=("Gemma2ForCausalLM",),
    arch=MODEL_ARCH.GEMMA2,
    source="conversion/gemma.py Gemma2Model",
    rules=(
        hp.CONTEXT_LENGTH,
        hp.EMBEDDING_LENGTH,
        hp.block_count,
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
    after=NO_PREFIX,
    whole=TIED,
    layers=(Layers(ATTENTION | DENSE | POST_NORMS),),
    bends={"*norm.weight": changed(plus_one)},
    defaults=GEMMA_DEFAULTS | {"max_position_embeddings": 8192, "num_key_value_heads": 4},
    computes=GEMMA_COMPUTES | {"attn_logit_softcapping": ANY},
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
    after=NO_PREFIX,
    whole=WHOLE,
    layers=(Layers(ATTENTION | DENSE | POST_NORMS | HEAD_NORMS),),
    bends={"*norm.weight": changed(plus_one)},
    defaults=GEMMA_DEFAULTS
    | {"max_position_embeddings": 131072, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208}
    | {"rope_theta": 1e6, "rope_local_base_freq": 10000.0, "sliding_window": 4096},
    computes=GEMMA_COMPUTES,
)
