"""What Gemma 4's config.json says of each layer: window or not, keys of its own or an earlier layer's, how wide.

Knows the two spellings (transformers 5 writes `per_layer_config`) and llama.cpp's entries. Source: conversion/gemma.py.
"""

from collections.abc import Callable, Iterable

from gguf import GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.config import Config
from ggufkit.architectures.rope import computed
from ggufkit.errors import CheckpointError
from ggufkit.formats.model import KV, ModelTensor

At = Callable[[Config, int], bool]


def windows(config: Config) -> list[bool]:
    """Of every layer, whether it looks back to a window only."""
    listed = config.layer_list("layer_types")
    n_layer = config.integer("num_hidden_layers")
    if listed is None:
        listed = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(n_layer)]
    return [kind == "sliding_attention" for kind in listed[:-1]] + [False]  # the last sees all, whatever is listed


def first_shared(config: Config) -> int:
    """The layers from here on use the keys and values of earlier ones."""
    shared = config.get("num_kv_shared_layers") or 0
    return config.integer("num_hidden_layers") - config.checked_integer("num_kv_shared_layers", shared, low=0)


def of_full_layers(config: Config, name: str) -> int | None:
    """What transformers 5 writes down for each layer that sees all, in place of `name`."""
    own = config.get("per_layer_config")
    for values in own.values() if isinstance(own, dict) else ():
        if isinstance(values, dict) and values.get(name) is not None:
            return config.checked_integer(name, values[name])
    return None


def full_head_dim(config: Config) -> int:
    return of_full_layers(config, "head_dim") or config.integer("global_head_dim")


def full_head_kv(config: Config) -> int | None:
    """Heads of keys of the layers that see all, where they are others than elsewhere."""
    if (own := of_full_layers(config, "num_key_value_heads")) is not None:
        return own
    stated = config.get("num_global_key_value_heads") is not None and config.flag("attention_k_eq_v")
    return config.integer("num_global_key_value_heads") if stated else None


def n_q_full(config: Config) -> int:
    return config.integer("num_attention_heads") * full_head_dim(config)


def n_kv_full(config: Config) -> int:
    return (full_head_kv(config) or config.n_head_kv) * full_head_dim(config)


def n_ple(config: Config) -> int:
    """Columns of the embedding that each layer has of its own; 0 for none."""
    return config.checked_integer("hidden_size_per_layer_input", config.get("hidden_size_per_layer_input") or 0, low=0)


def n_ple_all(config: Config) -> int:
    return n_ple(config) * config.integer("num_hidden_layers")


def n_vocab_ple(config: Config) -> int:
    return config.integer("vocab_size_per_layer_input", "vocab_size")


def layers(*, window: bool, owns: bool | None = None) -> At:
    """Layers with a window or without, with keys and values of their own, without, or all of them."""

    def at(config: Config, layer: int) -> bool:
        return windows(config)[layer] is window and owns in (None, layer < first_shared(config))

    return at


def is_wide(config: Config, layer: int) -> bool:
    return config.flag("use_double_wide_mlp") and layer >= first_shared(config)


def gemma4_parameters(config: Config, arch: str) -> Iterable[KV]:
    """The converter's entries in its order; llama.cpp tells the layers apart by them. Source: Gemma4Model."""
    array, u32 = GGUFValueType.ARRAY, GGUFValueType.UINT32
    window, shared = windows(config), first_shared(config)
    _check_shared(config, window, shared)
    full, own = full_head_dim(config), config.head_dim
    yield KV(Keys.Attention.SHARED_KV_LAYERS.format(arch=arch), u32, len(window) - shared)
    yield KV(Keys.LLM.EMBD_LENGTH_PER_LAYER_INP.format(arch=arch), u32, n_ple(config))
    yield KV(Keys.Attention.SLIDING_WINDOW_PATTERN.format(arch=arch), array, window, GGUFValueType.BOOL)
    yield KV(Keys.Attention.KEY_LENGTH.format(arch=arch), u32, full)
    yield KV(Keys.Attention.VALUE_LENGTH.format(arch=arch), u32, full)
    yield KV(Keys.Attention.KEY_LENGTH_SWA.format(arch=arch), u32, own)
    yield KV(Keys.Attention.VALUE_LENGTH_SWA.format(arch=arch), u32, own)
    yield from hp.EXPERT_FEED_FORWARD(config, arch)
    if config.flag("use_double_wide_mlp"):
        widths = [config.integer("intermediate_size") * (1 + is_wide(config, i)) for i in range(len(window))]
        yield KV(Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch), array, widths, GGUFValueType.INT32)
    if (n_kv_heads := full_head_kv(config)) is not None:
        heads = [config.n_head_kv if each else n_kv_heads for each in window]
        yield KV(Keys.Attention.HEAD_COUNT_KV.format(arch=arch), array, heads, GGUFValueType.INT32)
    yield KV(Keys.Rope.DIMENSION_COUNT.format(arch=arch), u32, full)
    yield KV(Keys.Rope.DIMENSION_COUNT_SWA.format(arch=arch), u32, own)


def _check_shared(config: Config, window: list[bool], first: int) -> None:
    if first != len(window) and (first < 2 or window[first - 2 : first] != [True, False]):
        raise CheckpointError(
            f"{config.path}: num_kv_shared_layers is {len(window) - first}. llama.cpp lends keys of "
            "the last layer before those and of the one before it, which must be one that sees all and one with a "
            "window, so the file would be another model."
        )


def proportional_factors(config: Config) -> Iterable[ModelTensor]:
    """rope_freqs.weight of Gemma 4, (head_dim / 2,): the layers that see all turn the first columns of a head alone.

    Dividing a frequency by 1e30 stops it.
    """
    if config.rope_type != "proportional":
        return
    half = full_head_dim(config) // 2
    n_turned = int(full_head_dim(config) * config.rope_number("partial_rotary_factor", 1.0) / 2)
    yield computed("rope_freqs.weight", [1.0] * n_turned + [1e30] * (half - n_turned))
