"""Command R: attention and feed-forward side by side behind one norm."""

from gguf import MODEL_ARCH, GGUFValueType, Keys, RopeScalingType

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY
from ggufkit.architectures.config import Default, same_as
from ggufkit.architectures.families.parts import ATTENTION, DENSE, QKV_BIAS, ROPE, TIED
from ggufkit.architectures.family import Family, Layers, Shape
from ggufkit.architectures.sizes import head_dim, n_embd, n_head, n_head_kv
from ggufkit.tokenizer import VocabKind

SIDE_BY_SIDE: dict[str, Shape] = {name: ATTENTION[name] for name in ATTENTION if name != "ffn_norm.weight"} | DENSE
NO_SCALING = hp.fixed(Keys.Rope.SCALING_TYPE, GGUFValueType.STRING, RopeScalingType.NONE.value)
CUTS = {"smollm": "command-r"}
DEFAULTS: dict[str, Default] = ROPE | {
    "logit_scale": 0.0625, "layer_norm_eps": 1e-5, "max_position_embeddings": 8192, "tie_word_embeddings": True,
    "num_key_value_heads": same_as("num_attention_heads"),
}  # fmt: skip

COMMAND_R = Family(
    title="Command R, R+, Aya 23",
    classes=("CohereForCausalLM",),
    arch=MODEL_ARCH.COMMAND_R,
    source="conversion/command_r.py CommandR2Model",
    rules=(
        hp.block_count,
        hp.u32(Keys.LLM.CONTEXT_LENGTH, "model_max_length", "max_position_embeddings"),
        *hp.COMMON[2:],
        hp.FILE_TYPE,
        hp.f32(Keys.LLM.LOGIT_SCALE, "logit_scale", required=True),
        NO_SCALING,
        hp.command_r_norms,
    ),
    vocab=(VocabKind.BPE,),
    whole=TIED,
    layers=(
        Layers(SIDE_BY_SIDE),
        Layers(
            {"attn_q_norm.weight": (n_head, head_dim), "attn_k_norm.weight": (n_head_kv, head_dim)},
            lambda config, _: config.flag("use_qk_norm"),
        ),
    ),
    optional=QKV_BIAS | {"attn_output.bias": (n_embd,)},
    pre_alias=CUTS,
    computes=dict.fromkeys(("logit_scale", "use_qk_norm"), ANY),
    defaults=DEFAULTS,
)

COHERE2 = Family(
    title="Command R7B, Command A, Aya",
    classes=("Cohere2ForCausalLM",),
    arch=MODEL_ARCH.COHERE2,
    source="conversion/command_r.py Cohere2Model",
    rules=(
        *hp.COMMON,
        hp.FILE_TYPE,
        hp.f32(Keys.LLM.LOGIT_SCALE, "logit_scale", required=True),
        hp.u32(Keys.Attention.SLIDING_WINDOW, "sliding_window", required=True),
        hp.VOCAB_SIZE,
        hp.rope_dimension,
        NO_SCALING,
        hp.window_pattern(4),
    ),
    vocab=(VocabKind.BPE,),
    whole=TIED,
    layers=(Layers(SIDE_BY_SIDE),),
    pre_alias=CUTS,
    computes=dict.fromkeys(("logit_scale", "layer_types", "sliding_window"), ANY),
    defaults=DEFAULTS | {"sliding_window": 4096},
)
