"""Gemma 4: heads of two widths, embeddings for each layer, experts beside a dense network."""

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY, Values
from ggufkit.architectures.bends import renamed
from ggufkit.architectures.families.gemma import GEMMA_COMPUTES, NO_PREFIX, POST_NORMS
from ggufkit.architectures.families.parts import DENSE, MOE_GATE_UP, TIED
from ggufkit.architectures.family import Family, Layers, Shape
from ggufkit.architectures.gemma4 import (
    full_head_dim,
    gemma4_parameters,
    is_wide,
    layers,
    n_kv_full,
    n_ple,
    n_ple_all,
    n_q_full,
    n_vocab_ple,
    proportional_factors,
)  # fmt: skip
from ggufkit.architectures.sizes import head_dim, n_embd, n_expert, n_ff_2, n_kv, n_q, one
from ggufkit.tokenizer import VocabKind

PER_LAYER: dict[str, Shape] = {
    "per_layer_token_embd.weight": (n_vocab_ple, n_ple_all),
    "per_layer_model_proj.weight": (n_ple_all, n_embd),
    "per_layer_proj_norm.weight": (n_ple,),
}
PER_LAYER_INPUT: dict[str, Shape] = {
    "inp_gate.weight": (n_ple, n_embd), "proj.weight": (n_embd, n_ple), "post_norm.weight": (n_embd,),
}  # fmt: skip
WIDE: dict[str, Shape] = {
    "ffn_gate.weight": (n_ff_2, n_embd), "ffn_up.weight": (n_ff_2, n_embd), "ffn_down.weight": (n_embd, n_ff_2),
}  # fmt: skip
QUERIES: dict[str, Shape] = {
    "attn_q.weight": (n_q, n_embd), "attn_q_norm.weight": (head_dim,), "attn_output.weight": (n_embd, n_q),
}  # fmt: skip
QUERIES_FULL: dict[str, Shape] = {
    "attn_q.weight": (n_q_full, n_embd), "attn_q_norm.weight": (full_head_dim,),
    "attn_output.weight": (n_embd, n_q_full),
}  # fmt: skip
KEYS: dict[str, Shape] = {
    "attn_k.weight": (n_kv, n_embd), "attn_k_norm.weight": (head_dim,), "attn_v.weight": (n_kv, n_embd),
}  # fmt: skip
KEYS_FULL: dict[str, Shape] = {"attn_k.weight": (n_kv_full, n_embd), "attn_k_norm.weight": (full_head_dim,)}
VALUES_FULL: dict[str, Shape] = {"attn_v.weight": (n_kv_full, n_embd)}
ROUTED: dict[str, Shape] = MOE_GATE_UP | {
    "ffn_gate_inp.scale": (n_embd,), "ffn_down_exps.scale": (n_expert,),
    "pre_ffw_norm_2.weight": (n_embd,), "post_ffw_norm_1.weight": (n_embd,), "post_ffw_norm_2.weight": (n_embd,),
}  # fmt: skip
GEMMA4_COMPUTES: dict[str, Values] = GEMMA_COMPUTES | {"use_bidirectional_attention": (None, "vision")} | dict.fromkeys(
    ("num_kv_shared_layers", "hidden_size_per_layer_input", "vocab_size_per_layer_input", "partial_rotary_factor"), ANY
)  # fmt: skip

GEMMA4_LAYERS = (
    Layers({"attn_norm.weight": (n_embd,), "ffn_norm.weight": (n_embd,)} | POST_NORMS),
    Layers(DENSE, lambda config, layer: not is_wide(config, layer)), Layers(WIDE, is_wide),
    Layers(QUERIES, layers(window=True)), Layers(QUERIES_FULL, layers(window=False)),
    Layers(KEYS, layers(window=True, owns=True)), Layers(KEYS_FULL, layers(window=False, owns=True)),
    Layers(KEYS, layers(window=True, owns=False), required=False),  # stored by some, read by nobody
    Layers(KEYS_FULL | VALUES_FULL, layers(window=False, owns=False), required=False),
    Layers(
        VALUES_FULL,
        lambda config, i: layers(window=False, owns=True)(config, i) and not config.flag("attention_k_eq_v"),
    ),
    Layers(PER_LAYER_INPUT, lambda config, _: n_ple(config) > 0),
    Layers(ROUTED, lambda config, _: config.flag("enable_moe_block")),
)  # fmt: skip
GEMMA4_SPLITS = {
    "experts.gate_up_proj": renamed("ffn_gate_up_exps.weight"),
    "experts.down_proj": renamed("ffn_down_exps.weight"),
    "router.scale": renamed("ffn_gate_inp.scale"), "router.per_expert_scale": renamed("ffn_down_exps.scale"),
}  # fmt: skip

GEMMA4 = Family(
    title="Gemma 4 (dense, 26B-A4B, E2B, E4B; the language model)",
    classes=("Gemma4ForConditionalGeneration", "Gemma4ForCausalLM"),
    arch=MODEL_ARCH.GEMMA4,
    source="conversion/gemma.py Gemma4Model",
    rules=(
        *hp.COMMON, hp.FILE_TYPE, hp.f32(Keys.LLM.FINAL_LOGIT_SOFTCAPPING, "final_logit_softcapping"),
        hp.u32(Keys.Attention.SLIDING_WINDOW, "sliding_window", required=True), gemma4_parameters,
    ),
    vocab=(VocabKind.GEMMA4,),
    after=(*NO_PREFIX, hp.fixed(Keys.Tokenizer.ADD_BOS, GGUFValueType.BOOL, True)),
    whole=TIED,
    outside=((PER_LAYER, lambda config: n_ple(config) > 0),),
    layers=GEMMA4_LAYERS,
    optional={"layer_output_scale.weight": (one,)},
    splits=GEMMA4_SPLITS,
    renames={r"\.layer_scalar$": ".layer_scalar.weight"},
    computed=proportional_factors,
    computes=GEMMA4_COMPUTES,
    defaults={
        "rms_norm_eps": 1e-6, "head_dim": 256, "max_position_embeddings": 131072, "num_attention_heads": 8,
        "num_key_value_heads": 4, "vocab_size": 262144, "global_head_dim": 512, "sliding_window": 512,
        "tie_word_embeddings": True,
    },
)  # fmt: skip
