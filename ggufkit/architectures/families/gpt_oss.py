"""gpt-oss: experts with biases, published in MXFP4."""

from gguf import MODEL_ARCH, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY, Values
from ggufkit.architectures.bends import (
    every_second,
    every_second_column,
    renamed,
    transposed,
)
from ggufkit.architectures.families.parts import ATTENTION, MOE, QKV_BIAS, WHOLE
from ggufkit.architectures.family import Family, Layers, Shape
from ggufkit.architectures.sizes import n_embd, n_expert, n_ff_expert, n_head
from ggufkit.tokenizer import VocabKind

SINKS: dict[str, Shape] = (
    {name: ATTENTION[name] for name in ATTENTION if name != "ffn_norm.weight"}
    | QKV_BIAS
    | {"attn_output.bias": (n_embd,), "attn_sinks.weight": (n_head,), "post_attention_norm.weight": (n_embd,)}
)

MOE_BIAS: dict[str, Shape] = {
    "ffn_gate_inp.bias": (n_expert,),
    "ffn_gate_exps.bias": (n_expert, n_ff_expert),
    "ffn_up_exps.bias": (n_expert, n_ff_expert),
    "ffn_down_exps.bias": (n_expert, n_embd),
}

# YaRN's limits are rounded by llama.cpp whatever `truncate` says, which moves a frequency or two a little
GPT_OSS_COMPUTES: dict[str, Values] = {"swiglu_limit": (None, 7.0)} | dict.fromkeys(
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
    whole=WHOLE,
    layers=(Layers(SINKS | MOE | MOE_BIAS),),
    splits={
        "mlp.experts.gate_up_proj": every_second(("ffn_gate_exps.weight", "ffn_up_exps.weight")),
        "mlp.experts.gate_up_proj_bias": every_second_column(("ffn_gate_exps.bias", "ffn_up_exps.bias")),
        "mlp.experts.down_proj": transposed("ffn_down_exps.weight"),
        "mlp.experts.down_proj_bias": renamed("ffn_down_exps.bias"),
    },
    renames={r"\.sinks$": ".sinks.weight"},
    computes=GPT_OSS_COMPUTES,
    defaults={"rms_norm_eps": 1e-5, "head_dim": 64, "num_key_value_heads": 8, "sliding_window": 128}
    | {"num_local_experts": 128, "num_experts_per_tok": 4, "rope_theta": 150000.0, "max_position_embeddings": 131072},
)
