"""Mamba-2 layers (Granite 4, Falcon-H1, Nemotron-H): sizes, tensors and metadata, in the words of each of them.

Knows a state's heads and groups. Does not know which layers have a state. Source: conversion/mamba.py.
"""

from collections.abc import Iterable
from dataclasses import replace

from gguf import Keys

from ggufkit.architectures.bends import Bender, chain, changed, squeezed
from ggufkit.architectures.config import Config, Size
from ggufkit.architectures.family import Shape
from ggufkit.architectures.hparams.rule import U32, Rule
from ggufkit.architectures.sizes import n_embd, one
from ggufkit.errors import CheckpointError
from ggufkit.formats.bend import negated_exp
from ggufkit.formats.model import KV, ModelTensor


def n_ssm_head(config: Config) -> int:
    return config.integer("mamba_n_heads", "mamba_num_heads")


def n_ssm_group(config: Config) -> int:
    return config.integer("mamba_n_groups", "n_groups")


def d_state(config: Config) -> int:
    return config.integer("mamba_d_state", "ssm_state_size")


def d_conv(config: Config) -> int:
    return config.integer("mamba_d_conv", "conv_kernel")


def d_inner(config: Config) -> int:
    """Columns that a layer keeps a state of: stated, or heads of a stated width, or a multiple of the embedding."""
    if config.get("mamba_d_ssm") is not None:
        return config.integer("mamba_d_ssm")
    if config.get("mamba_head_dim") is not None:
        return n_ssm_head(config) * config.integer("mamba_head_dim")
    return config.integer("mamba_expand") * n_embd(config)


def d_group(config: Config) -> int:
    return d_inner(config) // n_ssm_group(config)


def n_ssm_conv(config: Config) -> int:
    return d_inner(config) + 2 * n_ssm_group(config) * d_state(config)


def n_ssm_in(config: Config) -> int:
    """Gates, what is convolved, and a time step a head."""
    return d_inner(config) + n_ssm_conv(config) + n_ssm_head(config)


def reshaped(*shape: Size) -> Bender:
    """The same numbers in rows of another length."""

    def bend(config: Config, tensor: ModelTensor) -> ModelTensor:
        wanted = tuple(size(config) for size in shape)
        if wanted[0] * wanted[1] != tensor.n_weights:
            return tensor  # of another size than config.json says, which is an error of its own
        return replace(tensor, shape=wanted, parts=tuple(replace(part, shape=wanted) for part in tensor.parts))

    return bend


MAMBA: dict[str, Shape] = {
    "ssm_in.weight": (n_ssm_in, n_embd),
    "ssm_conv1d.weight": (n_ssm_conv, d_conv),
    "ssm_dt.bias": (n_ssm_head,),
    "ssm_a": (n_ssm_head, one),
    "ssm_d": (n_ssm_head, one),
    "ssm_out.weight": (n_embd, d_inner),
}
MAMBA_NORM: dict[str, Shape] = {"ssm_norm.weight": (n_ssm_group, d_group)}
MAMBA_BIAS: dict[str, Shape] = {"ssm_conv1d.bias": (n_ssm_conv,)}
MAMBA_BENDS: dict[str, Bender] = {
    "ssm_conv1d.weight": squeezed,
    "ssm_a": chain(reshaped(n_ssm_head, one), changed(negated_exp)),
    "ssm_d": reshaped(n_ssm_head, one),
    "ssm_norm.weight": reshaped(n_ssm_group, d_group),
}
MAMBA_RENAMES = {r"\.dt_bias$": ".dt_proj.bias"}


_SIZES = {
    Keys.SSM.CONV_KERNEL: d_conv,
    Keys.SSM.STATE_SIZE: d_state,
    Keys.SSM.GROUP_COUNT: n_ssm_group,
    Keys.SSM.INNER_SIZE: d_inner,
    Keys.SSM.TIME_STEP_RANK: n_ssm_head,
}


def ssm_sizes(*keys: str) -> Rule:
    """Sizes of the states under `keys`, in that order. Raises CheckpointError where they do not divide."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        for size in (n_ssm_head, n_ssm_group):
            if d_inner(config) % size(config):
                raise CheckpointError(
                    f"{config.path}: {d_inner(config)} columns of the state do not divide among "
                    f"{n_ssm_head(config)} heads and {n_ssm_group(config)} groups."
                )
        yield from (KV(key.format(arch=arch), U32, _SIZES[key](config)) for key in keys)

    return rule
