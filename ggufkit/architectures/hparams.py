"""Hyper-parameters: which entry of config.json goes to which GGUF key, in the converter's order.

Knows GGUF keys and RoPE scaling. Does not know families: `families` picks from these rules.
A rule takes the config and the name of the architecture and gives metadata entries.
Source: TextModel.set_gguf_parameters and the Phi classes of llama.cpp's converter, 0c1e57098.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

from gguf import GGUFValueType, Keys, RopeScalingType

from ggufkit.architectures.config import Config, even_head_dim
from ggufkit.errors import CheckpointError
from ggufkit.formats.checkpoint import read_json
from ggufkit.formats.model import KV

Rule = Callable[[Config, str], Iterable[KV]]
U32, F32 = GGUFValueType.UINT32, GGUFValueType.FLOAT32
_KNOWN_ROPE = ("default", "linear", "yarn", "su", "longrope", "dynamic", "llama3")


def check_sizes(config: Config) -> None:
    """Sizes that llama.cpp divides by each other, or dies of. Raises CheckpointError that names the entry."""
    n_head, n_head_kv = config.integer("num_attention_heads"), config.n_head_kv
    n_expert, used = (
        config.get("num_local_experts", "num_experts", "n_routed_experts"),
        config.get("num_experts_per_tok"),
    )
    wrong = None
    if n_head % n_head_kv:
        wrong = f"num_key_value_heads is {n_head_kv}, wanted a divisor of the {n_head} attention heads"
    elif config.head_dim % 2:
        wrong = f"head_dim is {config.head_dim}, wanted an even number: RoPE turns pairs"
    elif isinstance(n_expert, int | float) and isinstance(used, int | float) and used > n_expert:
        wrong = f"num_experts_per_tok is {used}, wanted at most the {n_expert} experts"
    if wrong:
        raise CheckpointError(f"{config.folder / 'config.json'}: {wrong}.")


def u32(key: str, *names: str, required: bool = False, low: int = 1) -> Rule:
    """GGUF `key` ← the first of `names` that config.json has; left out where it has none, unless required."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        value = config.get(*names)
        if value is not None or required:
            yield KV(key.format(arch=arch), U32, config.checked_integer(names[0], value, low=low))

    return rule


def f32(key: str, *names: str, required: bool = False) -> Rule:
    """As `u32`, for a float."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        value = config.get(*names)
        if value is not None or required:
            yield KV(key.format(arch=arch), F32, config.checked_number(names[0], value))

    return rule


def boolean(key: str, name: str, *, both: bool = False) -> Rule:
    """True where config.json says so; left out otherwise, or False where `both` are written."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        if config.flag(name) or both:
            yield KV(key.format(arch=arch), GGUFValueType.BOOL, config.flag(name))

    return rule


def per_layer(key: str, name: str, value: Any) -> Rule:
    """GGUF `key` ← one boolean a layer: whether the list `name` of config.json says `value` there."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        if (listed := config.layer_list(name)) is not None:
            flags = [entry == value for entry in listed]
            yield KV(key.format(arch=arch), GGUFValueType.ARRAY, flags, GGUFValueType.BOOL)

    return rule


def fixed(key: str, type_: GGUFValueType, value: float | bool) -> Rule:
    """The same value for every model of the family."""
    return lambda config, arch: (KV(key.format(arch=arch), type_, value),)


def rope_scaling(config: Config, arch: str) -> Iterable[KV]:
    kind = config.rope_type
    if kind not in _KNOWN_ROPE:
        raise CheckpointError(
            f"{config.folder / 'config.json'}: RoPE scaling {kind!r:.60} is not known. Known: {', '.join(_KNOWN_ROPE)}."
        )
    scaling = {"linear": RopeScalingType.LINEAR, "yarn": RopeScalingType.YARN}.get(kind)
    if kind in ("su", "longrope"):
        yield KV(Keys.Rope.SCALING_TYPE.format(arch=arch), GGUFValueType.STRING, RopeScalingType.LONGROPE.value)
    elif scaling is not None and config.rope.get("factor") is not None:
        yield KV(Keys.Rope.SCALING_TYPE.format(arch=arch), GGUFValueType.STRING, scaling.value)
        yield KV(Keys.Rope.SCALING_FACTOR.format(arch=arch), F32, config.rope_number("factor"))
        if kind == "yarn":
            yield from _yarn(config, arch)


def _yarn(config: Config, arch: str) -> Iterable[KV]:
    n_ctx = config.checked_integer(
        "original_max_position_embeddings", config.rope.get("original_max_position_embeddings")
    )
    yield KV(Keys.Rope.SCALING_ORIG_CTX_LEN.format(arch=arch), U32, n_ctx)
    for key, *names in (
        (Keys.Rope.SCALING_YARN_EXT_FACTOR, "extrapolation_factor"),
        (Keys.Rope.SCALING_YARN_ATTN_FACTOR, "attention_factor", "attn_factor"),
        (Keys.Rope.SCALING_YARN_BETA_FAST, "beta_fast"),
        (Keys.Rope.SCALING_YARN_BETA_SLOW, "beta_slow"),
    ):
        name = next((name for name in names if config.rope.get(name) is not None), None)
        if name is not None:
            yield KV(key.format(arch=arch), F32, config.rope_number(name))


def rope_theta(config: Config, arch: str) -> Iterable[KV]:
    if config.rope.get("rope_theta") is not None:
        if not config.rope_number("rope_theta"):
            raise CheckpointError(f"{config.folder / 'config.json'}: rope_theta is 0, wanted a number above 0.")
        yield KV(Keys.Rope.FREQ_BASE.format(arch=arch), F32, config.rope_number("rope_theta"))


def rope_theta_swa(config: Config, arch: str) -> Iterable[KV]:
    if (value := config.rope_theta_swa) is not None:
        yield KV(Keys.Rope.FREQ_BASE_SWA.format(arch=arch), F32, value)


def rope_sections(config: Config, arch: str) -> Iterable[KV]:
    """How many frequencies turn with time, height and width, padded to four numbers (Qwen's text models too)."""
    sections = config.rope.get("mrope_section")
    if sections is None:
        return
    if not isinstance(sections, list) or len(sections) > 4:
        raise CheckpointError(f"{config.folder / 'config.json'}: mrope_section is {sections!r:.80}, wanted 4 numbers.")
    numbers = [config.checked_integer("mrope_section", value, low=0) for value in sections]
    yield KV(
        Keys.Rope.DIMENSION_SECTIONS.format(arch=arch),
        GGUFValueType.ARRAY,
        (numbers + [0] * 4)[:4],
        GGUFValueType.INT32,
    )


def expert_gating(config: Config, arch: str) -> Iterable[KV]:
    """What makes a router's outputs weights."""
    name = config.get("score_function", "scoring_func", "score_func", "moe_router_activation_func")
    if name is None:
        return
    kind = {"softmax": 1, "sigmoid": 2}.get(name) if isinstance(name, str) else None
    if kind is None:
        raise CheckpointError(
            f"{config.folder / 'config.json'}: scoring_func is {name!r:.60}, wanted 'softmax' or 'sigmoid'."
        )
    yield KV(Keys.LLM.EXPERT_GATING_FUNC.format(arch=arch), U32, kind)


def rope_dimension(config: Config, arch: str) -> Iterable[KV]:
    yield KV(Keys.Rope.DIMENSION_COUNT.format(arch=arch), U32, config.head_dim)


def partial_rope_dimension(config: Config, arch: str) -> Iterable[KV]:
    """Phi: a share of the embedding's columns, then divided among the heads."""
    yield KV(Keys.Rope.DIMENSION_COUNT.format(arch=arch), U32, n_rot(config))


def n_rot(config: Config) -> int:
    share = config.rope_number("partial_rotary_factor", 1.0)
    n = int(share * config.integer("hidden_size")) // config.integer("num_attention_heads")
    if n < 2 or n % 2 or n > config.head_dim:
        raise CheckpointError(
            f"{config.folder / 'config.json'}: partial_rotary_factor {share} gives {n} of {config.head_dim} columns a "
            "head, wanted an even number of them."
        )
    return n


def original_context(config: Config, arch: str) -> Iterable[KV]:
    value = config.rope.get("original_max_position_embeddings")
    n_ctx = config.checked_integer("original_max_position_embeddings", value)
    yield KV(Keys.Rope.SCALING_ORIG_CTX_LEN.format(arch=arch), U32, n_ctx)


def longrope_attention_factor(config: Config, arch: str) -> Iterable[KV]:
    """How much longer contexts sharpen attention: sqrt(1 + ln(s)/ln(n_orig)), s = n_ctx / n_orig."""
    if not config.rope.get("long_factor"):
        return
    n_orig = config.rope_number("original_max_position_embeddings")
    scale = config.integer("max_position_embeddings") / n_orig
    factor = math.sqrt(1 + math.log(scale) / math.log(n_orig)) if scale > 1.0 else 1.0
    if config.rope_type == "yarn":
        factor = 0.1 * math.log(scale) + 1.0 if scale > 1.0 else 1.0
    elif config.rope_type not in ("su", "longrope"):
        raise CheckpointError(
            f"{config.folder / 'config.json'}: RoPE scaling {config.rope_type!r:.60} has long factors."
        )
    yield KV(Keys.Rope.SCALING_ATTN_FACTOR.format(arch=arch), F32, factor)


def sliding_window(config: Config, arch: str) -> Iterable[KV]:
    """0 stands for none: so llama.cpp tells Phi-4 from older Phi-3 files that lack the entry."""
    window = config.checked_integer("sliding_window", config.get("sliding_window") or 0, low=0)
    yield KV(Keys.Attention.SLIDING_WINDOW.format(arch=arch), U32, window)


def window_pattern(period: int) -> Rule:
    """Which layers see a window only; left out where every `period`-th layer sees all, as llama.cpp takes it to be."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        listed = config.layer_list("layer_types")
        n_layer = config.integer("num_hidden_layers")
        every = config.checked_integer("sliding_window_pattern", config.get("sliding_window_pattern") or period)
        flags = (
            [(i + 1) % every != 0 for i in range(n_layer)]
            if listed is None
            else [t == "sliding_attention" for t in listed]
        )
        if flags != [(i + 1) % period != 0 for i in range(n_layer)]:
            key = Keys.Attention.SLIDING_WINDOW_PATTERN.format(arch=arch)
            yield KV(key, GGUFValueType.ARRAY, flags, GGUFValueType.BOOL)

    return rule


def gemma_scale(n_layer_27b: int) -> Rule:
    """No entry: llama.cpp scales attention by the width of a head, by that of the embedding's share in the 27B."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        is_27b = config.integer("num_hidden_layers") == n_layer_27b
        scale = even_head_dim(config) if is_27b else config.head_dim
        if (stated := config.get("query_pre_attn_scalar")) not in (None, scale):
            raise CheckpointError(
                f"{config.folder / 'config.json'}: query_pre_attn_scalar is {stated!r:.40}, llama.cpp computes with "
                f"{scale} in a model of this size, so the file would be another model."
            )
        return ()

    return rule


def nope_pattern(period: int) -> Rule:
    """No entry: llama.cpp leaves every `period`-th layer without RoPE. Raises CheckpointError for another pattern."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        n_layer = config.integer("num_hidden_layers")
        wanted = [int((i + 1) % period != 0) for i in range(n_layer)]
        listed, interval = config.layer_list("no_rope_layers"), config.get("no_rope_layer_interval")
        if (listed is not None and listed != wanted) or (listed is None and interval not in (None, period)):
            raise CheckpointError(
                f"{config.folder / 'config.json'}: no_rope_layers is {listed!r:.60}, llama.cpp leaves every {period}th "
                "layer without RoPE, so the file would be another model."
            )
        return ()

    return rule


def added_token(key: str, text: str) -> Rule:
    """The number of an added token that plays a role which no file of the tokenizer gives it; absent ones are left out.

    Source: _set_special_token in the converter's set_vocab of a family.
    """

    def rule(config: Config, arch: str) -> Iterable[KV]:
        tokenizer = read_json(config.folder, "tokenizer.json") or {}
        for token in tokenizer.get("added_tokens") or []:
            if isinstance(token, dict) and token.get("content") == text:
                yield KV(key, U32, config.checked_integer(text, token.get("id"), low=0))

    return rule


def leading_dense(config: Config, arch: str) -> Iterable[KV]:
    n_dense = config.checked_integer("first_k_dense_replace", config.get("first_k_dense_replace") or 0, low=0)
    yield KV(Keys.LLM.LEADING_DENSE_BLOCK_COUNT.format(arch=arch), U32, n_dense)


def latent_attention(config: Config, arch: str) -> Iterable[KV]:
    """Sizes of DeepSeek's latent attention: the one head that is kept, and the heads it is unfolded to."""
    rank, n_rope = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
    for key, value in (
        (Keys.Attention.KV_LORA_RANK, rank),
        (Keys.Attention.KEY_LENGTH, rank + n_rope),
        (Keys.Attention.VALUE_LENGTH, rank),
        (Keys.Attention.KEY_LENGTH_MLA, config.integer("qk_nope_head_dim") + n_rope),
        (Keys.Attention.VALUE_LENGTH_MLA, config.integer("v_head_dim")),
    ):
        yield KV(key.format(arch=arch), U32, value)


def query_rank(config: Config, arch: str) -> Iterable[KV]:
    """Rank of the queries' projection. llama.cpp tells models without one by their layers. Source: deepseek2.cpp."""
    if config.get("q_lora_rank") is not None:
        yield KV(Keys.Attention.Q_LORA_RANK.format(arch=arch), U32, config.integer("q_lora_rank"))
        return
    n_layer = config.integer("num_hidden_layers")
    if n_layer not in (26, 27) and (n_layer, config.integer("vocab_size")) != (48, 128256):
        raise CheckpointError(
            f"{config.folder / 'config.json'}: q_lora_rank is absent in a model of {n_layer} layers. llama.cpp loads "
            "such models of 26 or 27 layers alone, so the file would not run."
        )


def yarn_log_multiplier(config: Config, arch: str) -> Iterable[KV]:
    """A tenth of mscale_all_dim: llama.cpp multiplies by ten where it reads it."""
    if config.rope.get("mscale_all_dim") is not None:
        yield KV(Keys.Rope.SCALING_YARN_LOG_MUL.format(arch=arch), F32, 0.1 * config.rope_number("mscale_all_dim"))


def ministral3(config: Config, arch: str) -> Iterable[KV]:
    """Ministral 3 stretches YaRN's attention and lets queries grow with their position; Mistral Small does not."""
    if config.get("model_type") == "ministral3":
        yield KV(Keys.Rope.SCALING_YARN_LOG_MUL.format(arch=arch), F32, config.rope_number("mscale_all_dim"))
        beta = config.rope_number("llama_4_scaling_beta")
        yield KV(Keys.Attention.TEMPERATURE_SCALE.format(arch=arch), F32, beta)


def olmo3_window(config: Config, arch: str) -> Iterable[KV]:
    """OLMo 3's window and the layers that see no more than it; OLMo 2 has none."""
    if config.get("sliding_window") is None:
        return
    n_layer = config.integer("num_hidden_layers")
    listed = config.layer_list("layer_types")
    flags = [(i + 1) % 4 != 0 for i in range(n_layer)] if listed is None else [t == "sliding_attention" for t in listed]
    yield KV(Keys.Attention.SLIDING_WINDOW.format(arch=arch), U32, config.integer("sliding_window"))
    yield KV(Keys.Attention.SLIDING_WINDOW_PATTERN.format(arch=arch), GGUFValueType.ARRAY, flags, GGUFValueType.BOOL)


def command_r_norms(config: Config, arch: str) -> Iterable[KV]:
    """No entry: llama.cpp expects norms of queries and keys from 64 layers on. Source: command-r.cpp."""
    n_layer, normed = config.integer("num_hidden_layers"), config.flag("use_qk_norm")
    if normed != (n_layer >= 64):
        raise CheckpointError(
            f"{config.folder / 'config.json'}: use_qk_norm is {normed} in a model of {n_layer} layers. llama.cpp "
            "expects these norms from 64 layers on and only there, so the file would not run."
        )
    return ()


def feed_forward_4x(config: Config, arch: str) -> Iterable[KV]:
    """Phi-2: four times the embedding, which the converter takes for granted."""
    n_ff, n_embd = config.integer("intermediate_size"), config.integer("hidden_size")
    if n_ff != 4 * n_embd or config.n_head_kv != config.integer("num_attention_heads"):
        raise CheckpointError(
            f"{config.folder / 'config.json'}: intermediate_size is {n_ff} and num_key_value_heads {config.n_head_kv}; "
            f"a Phi-2 has {4 * n_embd} and as many as heads. Is it another model?"
        )
    yield KV(Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch), U32, 4 * config.integer("hidden_size"))


def block_count(config: Config, arch: str) -> Iterable[KV]:
    yield KV(Keys.LLM.BLOCK_COUNT.format(arch=arch), U32, config.n_layer)


def mtp_layers(config: Config, arch: str) -> Iterable[KV]:
    if config.n_mtp:
        yield KV(Keys.LLM.NEXTN_PREDICT_LAYERS.format(arch=arch), U32, config.n_mtp)


def delta_net(config: Config, arch: str) -> Iterable[KV]:
    """Sizes of the layers with linear attention (gated delta nets), and which layers those are."""
    values = config.integer("linear_value_head_dim") * config.integer("linear_num_value_heads")
    for key, value in (
        (Keys.SSM.CONV_KERNEL, config.integer("linear_conv_kernel_dim")),
        (Keys.SSM.STATE_SIZE, config.integer("linear_key_head_dim")),
        (Keys.SSM.GROUP_COUNT, config.integer("linear_num_key_heads")),
        (Keys.SSM.TIME_STEP_RANK, config.integer("linear_num_value_heads")),
        (Keys.SSM.INNER_SIZE, values),
    ):
        yield KV(key.format(arch=arch), U32, value)
    flags = [config.is_linear(i) for i in range(config.n_layer)]
    yield KV(f"{arch}.attention.recurrent_layers", GGUFValueType.ARRAY, flags, GGUFValueType.BOOL)
    yield KV(Keys.LLM.FULL_ATTENTION_INTERVAL.format(arch=arch), U32, config.integer("full_attention_interval"))


def rope_share(config: Config, arch: str) -> Iterable[KV]:
    """Only a share of each head turns."""
    n_rot = int(config.head_dim * config.rope_number("partial_rotary_factor", 1.0))
    yield KV(Keys.Rope.DIMENSION_COUNT.format(arch=arch), U32, n_rot)


def default_rope_sections(config: Config, arch: str) -> Iterable[KV]:
    """Qwen3.5's, where config.json has none. Source: conversion/qwen.py _Qwen35MRopeMixin."""
    if config.rope.get("mrope_section") is None:
        key = Keys.Rope.DIMENSION_SECTIONS.format(arch=arch)
        yield KV(key, GGUFValueType.ARRAY, [11, 11, 10, 0], GGUFValueType.INT32)


BLOCK_COUNT = block_count
CONTEXT_LENGTH = u32(Keys.LLM.CONTEXT_LENGTH, "max_position_embeddings", "n_ctx", "n_positions")
EMBEDDING_LENGTH = u32(Keys.LLM.EMBEDDING_LENGTH, "hidden_size", required=True)
FEED_FORWARD_LENGTH = u32(Keys.LLM.FEED_FORWARD_LENGTH, "intermediate_size", required=True)
HEAD_COUNT = u32(Keys.Attention.HEAD_COUNT, "num_attention_heads", required=True)
HEAD_COUNT_KV = u32(Keys.Attention.HEAD_COUNT_KV, "num_key_value_heads")
RMS_EPS = f32(Keys.Attention.LAYERNORM_RMS_EPS, "rms_norm_eps")
LAYER_NORM_EPS = f32(Keys.Attention.LAYERNORM_EPS, "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
VOCAB_SIZE = u32(Keys.LLM.VOCAB_SIZE, "vocab_size", required=True)
EXPERT_FEED_FORWARD = u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "moe_intermediate_size")
SHARED_FEED_FORWARD = u32(Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, "shared_expert_intermediate_size")

FILE_TYPE = fixed(Keys.General.FILE_TYPE, U32, 0)  # its place; `convert` fills in the number

HEAD_LENGTHS = (u32(Keys.Attention.KEY_LENGTH, "head_dim"), u32(Keys.Attention.VALUE_LENGTH, "head_dim"))

COMMON_BUT_HEADS: tuple[Rule, ...] = (
    BLOCK_COUNT,
    CONTEXT_LENGTH,
    EMBEDDING_LENGTH,
    FEED_FORWARD_LENGTH,
    HEAD_COUNT,
    HEAD_COUNT_KV,
    rope_scaling,
    rope_sections,
    rope_theta,
    rope_theta_swa,
    RMS_EPS,
    LAYER_NORM_EPS,
    u32(Keys.LLM.EXPERT_COUNT, "num_local_experts", "num_experts", "n_routed_experts"),
    u32(Keys.LLM.EXPERT_USED_COUNT, "num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
    u32(Keys.LLM.EXPERT_GROUP_COUNT, "n_group"),
    u32(Keys.LLM.EXPERT_GROUP_USED_COUNT, "topk_group"),
    expert_gating,
)
COMMON: tuple[Rule, ...] = (*COMMON_BUT_HEADS, *HEAD_LENGTHS)
