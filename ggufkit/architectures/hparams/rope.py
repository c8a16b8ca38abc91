"""Rules of RoPE: its base, its scaling, how many columns of a head turn.

Source: TextModel.set_gguf_parameters and the Phi classes of llama.cpp's converter, 0c1e57098.
"""

import math
from collections.abc import Iterable

from gguf import GGUFValueType, Keys, RopeScalingType

from ggufkit.architectures.config import Config
from ggufkit.architectures.hparams.rule import F32, U32
from ggufkit.errors import CheckpointError
from ggufkit.formats.model import KV

_KNOWN_ROPE = ("default", "linear", "yarn", "su", "longrope", "dynamic", "llama3", "proportional")


def rope_scaling(config: Config, arch: str) -> Iterable[KV]:
    kind = config.rope_type
    if kind not in _KNOWN_ROPE:
        raise CheckpointError(
            f"{config.path}: RoPE scaling {kind!r:.60} is not known. Known: {', '.join(_KNOWN_ROPE)}."
        )
    scaling = {"linear": RopeScalingType.LINEAR, "yarn": RopeScalingType.YARN}.get(kind)
    if kind in ("su", "longrope"):
        yield KV(Keys.Rope.SCALING_TYPE.format(arch=arch), GGUFValueType.STRING, RopeScalingType.LONGROPE.value)
    elif scaling is not None and config.rope.get("factor") is not None:
        yield KV(Keys.Rope.SCALING_TYPE.format(arch=arch), GGUFValueType.STRING, scaling.value)
        factor = config.checked_positive("factor of the RoPE scaling", config.rope["factor"])
        yield KV(Keys.Rope.SCALING_FACTOR.format(arch=arch), F32, factor)
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


def yarn_log_multiplier(config: Config, arch: str) -> Iterable[KV]:
    """A tenth of mscale_all_dim: llama.cpp multiplies by ten where it reads it."""
    if config.rope.get("mscale_all_dim") is not None:
        yield KV(Keys.Rope.SCALING_YARN_LOG_MUL.format(arch=arch), F32, 0.1 * config.rope_number("mscale_all_dim"))


def rope_theta(config: Config, arch: str) -> Iterable[KV]:
    if (value := config.rope.get("rope_theta")) is not None:
        yield KV(Keys.Rope.FREQ_BASE.format(arch=arch), F32, config.checked_positive("rope_theta", value))


def rope_theta_swa(config: Config, arch: str) -> Iterable[KV]:
    if (value := config.rope_theta_swa) is not None:
        yield KV(Keys.Rope.FREQ_BASE_SWA.format(arch=arch), F32, value)


def rope_sections(config: Config, arch: str) -> Iterable[KV]:
    """How many frequencies turn with time, height and width, padded to four numbers (Qwen's text models too)."""
    sections = config.rope.get("mrope_section")
    if sections is None:
        return
    if not isinstance(sections, list) or len(sections) > 4:
        raise CheckpointError(f"{config.path}: mrope_section is {sections!r:.80}, wanted 4 numbers.")
    numbers = [config.checked_integer("mrope_section", value, low=0) for value in sections]
    yield KV(
        Keys.Rope.DIMENSION_SECTIONS.format(arch=arch),
        GGUFValueType.ARRAY,
        (numbers + [0] * 4)[:4],
        GGUFValueType.INT32,
    )


def default_rope_sections(config: Config, arch: str) -> Iterable[KV]:
    """Qwen3.5's, where config.json has none. Source: conversion/qwen.py _Qwen35MRopeMixin."""
    if config.rope.get("mrope_section") is None:
        key = Keys.Rope.DIMENSION_SECTIONS.format(arch=arch)
        yield KV(key, GGUFValueType.ARRAY, [11, 11, 10, 0], GGUFValueType.INT32)


def rope_dimension(config: Config, arch: str) -> Iterable[KV]:
    yield KV(Keys.Rope.DIMENSION_COUNT.format(arch=arch), U32, config.head_dim)


def rope_share(config: Config, arch: str) -> Iterable[KV]:
    """Only a share of each head turns."""
    n_rot = int(config.head_dim * config.rope_number("partial_rotary_factor", 1.0))
    yield KV(Keys.Rope.DIMENSION_COUNT.format(arch=arch), U32, n_rot)


def partial_rope_dimension(config: Config, arch: str) -> Iterable[KV]:
    """Phi: a share of the embedding's columns, then divided among the heads."""
    yield KV(Keys.Rope.DIMENSION_COUNT.format(arch=arch), U32, n_rot(config))


def n_rot(config: Config) -> int:
    share = config.rope_number("partial_rotary_factor", 1.0)
    n = int(share * config.integer("hidden_size")) // config.integer("num_attention_heads")
    if n < 2 or n % 2 or n > config.head_dim:
        raise CheckpointError(
            f"{config.path}: partial_rotary_factor {share} gives {n} of {config.head_dim} columns a "
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
        raise CheckpointError(f"{config.path}: RoPE scaling {config.rope_type!r:.60} has long factors.")
    yield KV(Keys.Rope.SCALING_ATTN_FACTOR.format(arch=arch), F32, factor)
