"""Gated delta nets (Qwen3-Next, Qwen3.5): where the rows of their projections lie, and where llama.cpp wants them.

Knows heads of keys and of values. There are more of the latter: the checkpoint groups them by the key they share, ggml
repeats keys over them in turn, so they are stored in the order in which the turn comes. Source: conversion/qwen.py.
"""

from collections.abc import Callable

import numpy as np

from ggufkit.architectures.bends import chain, changed, reordered, reordered_columns, rows_of_groups, squeezed
from ggufkit.architectures.config import Config
from ggufkit.architectures.sizes import delta_v_dim, n_delta_keys, n_delta_v
from ggufkit.errors import CheckpointError
from ggufkit.formats.bend import Order, negated_exp, plus_one


def n_delta_k(config: Config) -> int:
    return config.integer("linear_num_key_heads")


def per_key(config: Config) -> int:
    """Heads of values that share one of keys."""
    n_value, n_key = n_delta_v(config), n_delta_k(config)
    if n_value % n_key:
        raise CheckpointError(f"{config.path}: {n_value} heads of values do not divide among {n_key} of keys.")
    return n_value // n_key


def in_turn(width: int, first: int = 0) -> Callable[[Config], Order]:
    """Order of n_v · width rows: heads of values in turn of the keys; `first` rows before them stay."""
    return lambda config: _order(config, width, first)


def _order(config: Config, width: int, first: int) -> Order:
    heads = np.arange(n_delta_v(config) * width).reshape(n_delta_k(config), per_key(config), width)
    return np.concatenate([np.arange(first), first + heads.swapaxes(0, 1).reshape(-1)])


def values_in_turn(config: Config) -> Order:
    return _order(config, delta_v_dim(config), 0)


def qkv_in_turn(config: Config) -> Order:
    """The rows of queries and keys stay, those of values take turns."""
    return _order(config, delta_v_dim(config), 2 * n_delta_keys(config))


def _qkvz(config: Config) -> dict[str, list[int]]:
    """Of one key's rows: queries, keys, values, gates."""
    key = config.integer("linear_key_head_dim")
    value = per_key(config) * delta_v_dim(config)
    return {
        "attn_qkv.weight": [0, key, key, 2 * key, 2 * key, 2 * key + value],
        "attn_gate.weight": [2 * key + value, 2 * key + 2 * value],
    }


NORMS = {
    pattern: changed(plus_one)
    for pattern in ("attn_*norm.weight", "post_attention_norm.weight", "output_norm.weight", "nextn.*norm.weight")
}
PLAIN = {"ssm_conv1d.weight": squeezed, "ssm_a": changed(negated_exp)}
SPLIT_QKVZ = {"linear_attn.in_proj_qkvz": rows_of_groups(n_delta_k, _qkvz)}
IN_TURN = {
    "attn_qkv.weight": reordered(qkv_in_turn),
    "ssm_conv1d.weight": chain(reordered(qkv_in_turn), squeezed),
    "attn_gate.weight": reordered(values_in_turn),
    "ssm_alpha.weight": reordered(in_turn(1)),
    "ssm_beta.weight": reordered(in_turn(1)),
    "ssm_a": chain(reordered(in_turn(1)), changed(negated_exp)),
    "ssm_dt.bias": reordered(in_turn(1)),
    "ssm_out.weight": reordered_columns(values_in_turn),
}
