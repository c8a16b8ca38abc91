"""LFM2: short convolutions in most layers, attention in the others."""

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures import own_rules as own
from ggufkit.architectures.arithmetic import ANY, Values
from ggufkit.architectures.bends import squeezed
from ggufkit.architectures.config import Config, Default
from ggufkit.architectures.families.hybrids import ATTENTION_BARE, NORMS
from ggufkit.architectures.families.parts import DENSE, HEAD_NORMS, MOE
from ggufkit.architectures.family import Experts, Family, Layers, Shape
from ggufkit.architectures.sizes import is_full, is_linear, n_embd, n_expert, n_vocab
from ggufkit.tokenizer import VocabKind


def n_embd_3(config: Config) -> int:
    return 3 * n_embd(config)


def n_conv(config: Config) -> int:
    return config.integer("conv_L_cache")


def n_ff_adjusted(config: Config) -> int:
    """Two thirds of what config.json says, rounded up to a multiple, unless it says that it means it."""
    n_ff = config.integer("block_ff_dim", "intermediate_size")
    if config.get("block_auto_adjust_ff_dim") is False:
        return n_ff
    share = config.checked_number("block_ffn_dim_multiplier", config.get("block_ffn_dim_multiplier"))
    multiple = config.integer("block_multiple_of")
    return -(-int(share * int(2 * n_ff / 3)) // multiple) * multiple


def is_dense(config: Config, layer: int) -> bool:
    return layer < config.checked_integer("num_dense_layers", config.get("num_dense_layers"), low=0)


def kinds_of_layers(config: Config) -> list[str]:
    """Older configs number the layers of attention; all are where nothing is said."""
    n_layer, listed = config.integer("num_hidden_layers"), config.get("full_attn_idxs")
    full = listed if isinstance(listed, list) else range(n_layer)
    return ["full_attention" if i in full else "conv" for i in range(n_layer)]


WHOLE: dict[str, Shape] = {"token_embd.weight": (n_vocab, n_embd), "token_embd_norm.weight": (n_embd,)}
CONVOLUTION: dict[str, Shape] = {
    "shortconv.conv.weight": (n_embd, n_conv),
    "shortconv.in_proj.weight": (n_embd_3, n_embd),
    "shortconv.out_proj.weight": (n_embd, n_embd),
}
ADJUSTED: dict[str, Shape] = {
    "ffn_gate.weight": (n_ff_adjusted, n_embd),
    "ffn_up.weight": (n_ff_adjusted, n_embd),
    "ffn_down.weight": (n_embd, n_ff_adjusted),
}
MIXERS = (Layers(NORMS), Layers(ATTENTION_BARE | HEAD_NORMS, is_full), Layers(CONVOLUTION, is_linear))
SHORTCONV = hp.u32(Keys.ShortConv.L_CACHE, "conv_L_cache", required=True)
LFM2_COMPUTES: dict[str, Values] = {"tie_embedding": (None, True), "use_pos_enc": (None, True)} | dict.fromkeys((
    "layer_types", "full_attn_idxs", "block_dim", "block_norm_eps", "block_use_swiglu", "block_use_xavier_init",
    "conv_bias", "conv_dim", "conv_dim_out", "conv_use_xavier_init", "num_heads", "theta",
), ANY)  # fmt: skip
LFM2_DEFAULTS: dict[str, Default] = {
    "norm_eps": 1e-5, "rope_theta": 1000000.0, "max_position_embeddings": 128000, "num_key_value_heads": 8,
    "conv_L_cache": 3, "tie_word_embeddings": True, "layer_types": kinds_of_layers,
}  # fmt: skip

LFM2 = Family(
    title="LFM2, LFM2.5 (dense)",
    classes=("Lfm2ForCausalLM", "LFM2ForCausalLM"),
    arch=MODEL_ARCH.LFM2,
    source="conversion/lfm2.py LFM2Model",
    rules=(
        *hp.COMMON, own.kv_heads_where(is_full), hp.FILE_TYPE, hp.VOCAB_SIZE, SHORTCONV,
        own.feed_forward(n_ff_adjusted),
    ),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(*MIXERS, Layers(ADJUSTED)),
    bends={"shortconv.conv.weight": squeezed},
    pre_alias={"llama-bpe": "lfm2"},
    computes=LFM2_COMPUTES,
    defaults=LFM2_DEFAULTS | {"block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0},
)  # fmt: skip

LFM2_MOE = Family(
    title="LFM2 MoE",
    classes=("Lfm2MoeForCausalLM",),
    arch=MODEL_ARCH.LFM2MOE,
    source="conversion/lfm2.py LFM2MoeModel",
    rules=(
        *hp.COMMON, own.kv_heads_where(is_full), hp.FILE_TYPE, hp.EXPERT_FEED_FORWARD,
        hp.u32(Keys.LLM.LEADING_DENSE_BLOCK_COUNT, "num_dense_layers", required=True, low=0),
        hp.fixed(Keys.LLM.EXPERT_GATING_FUNC, GGUFValueType.UINT32, 2), hp.VOCAB_SIZE, SHORTCONV,
    ),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(
        *MIXERS, Layers(DENSE, is_dense),
        Layers(MOE | {"exp_probs_b.bias": (n_expert,)}, lambda config, layer: not is_dense(config, layer)),
    ),
    experts=Experts("feed_forward.experts", {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}),
    bends={"shortconv.conv.weight": squeezed},
    renames={r"\.expert_bias$": ".expert_bias.bias"},
    pre_alias={"llama-bpe": "lfm2"},
    computes=LFM2_COMPUTES | {"use_expert_bias": (None, True)},
    defaults=LFM2_DEFAULTS | {"num_dense_layers": 2, "num_experts": 32, "num_experts_per_tok": 4},
)  # fmt: skip
