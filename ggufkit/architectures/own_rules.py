"""Hyper-parameters that one family alone has: entries, and what llama.cpp's graph of it takes for granted.

Knows config.json's words and GGUF keys. Does not know tensors. Source: llama.cpp's converter and src/models, 0c1e57098.
"""

from collections.abc import Callable, Iterable

from gguf import GGUFValueType, Keys, RopeScalingType

from ggufkit.architectures.config import Config, Size
from ggufkit.architectures.hparams.rule import F32, U32, Rule
from ggufkit.errors import CheckpointError
from ggufkit.formats.checkpoint import read_optional
from ggufkit.formats.model import KV


def query_growth(config: Config, arch: str) -> Iterable[KV]:
    """Mistral 4's queries grow with their position. The converter stores nothing of it."""
    if config.rope.get("llama_4_scaling_beta") is not None:
        n_orig = config.checked_integer(
            "original_max_position_embeddings", config.rope.get("original_max_position_embeddings")
        )
        beta = config.rope_number("llama_4_scaling_beta")
        yield KV(Keys.Attention.TEMPERATURE_SCALE.format(arch=arch), F32, beta)
        yield KV(Keys.Attention.TEMPERATURE_LENGTH.format(arch=arch), U32, n_orig)


HUNYUAN_CONTEXT = 1 << 18  # what its makers say; its config.json says less


def hunyuan_rope(config: Config, arch: str) -> Iterable[KV]:
    """Hunyuan's dynamic scaling is a larger base whatever the length: base · alpha^(d / (d - 2))."""
    if config.rope_type != "dynamic":
        return
    dim, alpha = config.head_dim, config.rope_number("alpha")
    yield KV(Keys.Rope.FREQ_BASE.format(arch=arch), F32, config.rope_number("rope_theta") * alpha ** (dim / (dim - 2)))
    yield KV(Keys.Rope.SCALING_TYPE.format(arch=arch), GGUFValueType.STRING, RopeScalingType.NONE.value)
    yield KV(Keys.Rope.SCALING_FACTOR.format(arch=arch), F32, 1.0)
    yield KV(Keys.Rope.SCALING_ORIG_CTX_LEN.format(arch=arch), U32, HUNYUAN_CONTEXT)
    yield KV(Keys.LLM.CONTEXT_LENGTH.format(arch=arch), U32, HUNYUAN_CONTEXT)


def hunyuan_ends(config: Config, arch: str) -> Iterable[KV]:
    """The token that ends a document, and of two ends in generation_config.json the first, which ends a turn."""
    if config.get("eod_token_id") is not None:
        yield KV(Keys.Tokenizer.EOS_ID, U32, config.checked_integer("eod_token_id", config.get("eod_token_id"), low=0))
    ends = read_optional(config.folder, "generation_config.json", notes=[]).get("eos_token_id")
    if isinstance(ends, list) and len(ends) > 1:
        yield KV(Keys.Tokenizer.EOT_ID, U32, config.checked_integer("eos_token_id", ends[0], low=0))


def exaone4_window(config: Config, arch: str) -> Iterable[KV]:
    """llama.cpp looks back to a window in models of 64 layers and no others. Source: exaone4.cpp."""
    n_layer, window = config.integer("num_hidden_layers"), config.get("sliding_window")
    if (window is not None) != (n_layer == 64):
        raise CheckpointError(
            f"{config.path}: sliding_window is {window!r:.40} in a model of {n_layer} layers. "
            "llama.cpp has a window in models of 64 layers and only there, so the file would be another model."
        )
    if window is None:
        return
    yield KV(Keys.Attention.SLIDING_WINDOW.format(arch=arch), U32, config.integer("sliding_window"))
    pattern = config.get("sliding_window_pattern") or 4
    flags = [t == "sliding_attention" for t in config.layer_list("layer_types") or []]
    if not flags and isinstance(pattern, str):  # LLLG
        flags = [pattern[i % len(pattern)] == "L" for i in range(n_layer)]
    elif not flags:
        every = config.checked_integer("sliding_window_pattern", pattern)
        flags = [(i + 1) % every != 0 for i in range(n_layer)]
    yield KV(Keys.Attention.SLIDING_WINDOW_PATTERN.format(arch=arch), GGUFValueType.ARRAY, flags, GGUFValueType.BOOL)


def llama4_norms(config: Config, arch: str) -> Iterable[KV]:
    """No entry: llama.cpp norms queries and keys unless there are 128 experts. Source: llama4.cpp."""
    n_expert, normed = config.integer("num_local_experts"), config.flag("use_qk_norm")
    if normed == (n_expert == 128):
        raise CheckpointError(
            f"{config.path}: use_qk_norm is {normed} in a model of {n_expert} experts. llama.cpp "
            "norms queries and keys unless there are 128, so the file would be another model."
        )
    return ()


def ernie_layers(config: Config, arch: str) -> Iterable[KV]:
    """Which layers have experts: all from the first on, as llama.cpp takes them to be."""
    last, n_layer = config.get("moe_layer_end_index"), config.integer("num_hidden_layers")
    if last not in (None, -1, n_layer - 1):
        raise CheckpointError(
            f"{config.path}: moe_layer_end_index is {last!r:.40}, llama.cpp has experts up to "
            f"the last of {n_layer} layers, so the file would be another model."
        )
    start = config.checked_integer("moe_layer_start_index", config.get("moe_layer_start_index"), low=0)
    yield KV(Keys.LLM.INTERLEAVE_MOE_LAYER_STEP.format(arch=arch), U32, config.integer("moe_layer_interval"))
    yield KV(Keys.LLM.LEADING_DENSE_BLOCK_COUNT.format(arch=arch), U32, start)


def ernie_shared(config: Config, arch: str) -> Iterable[KV]:
    """The shared experts of Ernie, side by side in one network."""
    if config.get("moe_num_shared_experts"):
        width = config.integer("moe_intermediate_size") * config.integer("moe_num_shared_experts")
        yield KV(Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH.format(arch=arch), U32, width)


def kv_heads_where(at: Callable[[Config, int], bool]) -> Rule:
    """Heads of keys of each layer; none tells llama.cpp that a layer has no attention."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        heads = [config.n_head_kv if at(config, i) else 0 for i in range(config.n_layer)]
        yield KV(Keys.Attention.HEAD_COUNT_KV.format(arch=arch), GGUFValueType.ARRAY, heads, GGUFValueType.INT32)

    return rule


def feed_forward_where(at: Callable[[Config, int], bool], width: Size) -> Rule:
    """Width of each layer's feed-forward network, 0 where it has none."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        widths = [width(config) if at(config, i) else 0 for i in range(config.n_layer)]
        yield KV(Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch), GGUFValueType.ARRAY, widths, GGUFValueType.INT32)

    return rule


def feed_forward(width: Size) -> Rule:
    """Width of the feed-forward network, where it is not what config.json says."""
    return lambda config, arch: (KV(Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch), U32, width(config)),)


def embedding_share(config: Config, arch: str) -> Iterable[KV]:
    """An embedding's share of each head, whatever the width of a head: nothing turns in Nemotron-H."""
    n_rot = config.integer("hidden_size") // config.integer("num_attention_heads")
    yield KV(Keys.Rope.DIMENSION_COUNT.format(arch=arch), U32, n_rot)


def granite_expansion(config: Config, arch: str) -> Iterable[KV]:
    """No entry: llama.cpp ends the process where a state is not twice as wide as the embedding."""
    if config.integer("mamba_expand") != 2:
        raise CheckpointError(f"{config.path}: mamba_expand is {config.get('mamba_expand')!r:.40}, llama.cpp loads 2.")
    return ()


def falcon_h1(config: Config, arch: str) -> Iterable[KV]:
    """No entry: llama.cpp norms a state behind its gate, and embeddings that make logits have one scale for both."""
    scales = [config.checked_number(name, config.get(name)) for name in ("embedding_multiplier", "lm_head_multiplier")]
    if config.flag("tie_word_embeddings") and scales[0] != scales[1]:
        raise CheckpointError(
            f"{config.folder / 'config.json'}: tied embeddings are scaled by {scales[0]} on their way in and "
            f"{scales[1]} on their way out. One tensor of the file serves for both, so the file would be another model."
        )
    if config.flag("mamba_rms_norm") and config.get("mamba_norm_before_gate") is not False:
        raise CheckpointError(
            f"{config.path}: mamba_norm_before_gate is true, llama.cpp norms it behind its gate, "
            "so the file would be another model."
        )
    return ()
