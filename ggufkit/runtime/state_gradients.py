"""Gradients of layers that keep a state: short convolutions, and Mamba-2's scan from an empty state.

A scan is attention without a softmax: y = (C Bᵀ ∘ L) (Δ x) with L[t, s] = exp(a[t] - a[s]) for s ≤ t, a the running
sum of Δ A. So its gradients are products of matrices. Source: ggml-cpu/ops.cpp, ssm_conv and ssm_scan.
"""

from typing import TYPE_CHECKING

import numpy as np

from ggufkit.runtime.gated_gradients import sigmoid
from ggufkit.runtime.tape import F32Array, Node

if TYPE_CHECKING:
    from ggufkit.runtime.backward import Backward

_LINEAR = 20  # from here on softplus is its argument
_HEADS_AT_ONCE = 16  # a few matrices of tokens by tokens for each


def ssm_conv(back: "Backward", node: Node, g: F32Array) -> None:
    """y[t, channel] = Σ x[channel, t + k] w[channel, k]."""
    w, by_channel = node.kept[1][0, 0], g.swapaxes(-1, -2)
    n_tokens = by_channel.shape[-1]

    def to_input() -> F32Array:
        out = np.zeros(node.sources[0].shape, dtype=np.float32)
        for k in range(w.shape[1]):
            out[..., k : k + n_tokens] += by_channel * w[:, k : k + 1]
        return out

    back.give(node, 0, to_input)


def ssm_scan(back: "Backward", node: Node, g: F32Array) -> None:
    """x (n_seq, n_tokens, n_head, head_dim), Δ (1, n_seq, n_tokens, n_head), B, C (n_seq, n_tokens, n_group, n)."""
    x, dt, decay, b, c = (node.kept[slot] for slot in range(1, 6))
    if decay.shape[-1] != 1:
        back.ended_at.add("SSM_SCAN of Mamba-1")
        return
    g = g.reshape(-1)[: x.size].reshape(x.shape)  # behind it lie the states
    to = [np.zeros_like(each) for each in (x, dt, b, c)]
    for i in range(len(x)):
        for first in range(0, x.shape[2], _HEADS_AT_ONCE):
            heads = np.arange(first, min(first + _HEADS_AT_ONCE, x.shape[2]))
            groups = heads // (x.shape[2] // b.shape[2])
            sources = x[i][:, heads], dt[0, i][:, heads], decay[0, 0, heads, 0], b[i][:, groups], c[i][:, groups]
            to_x, to_dt, to_b, to_c = _scan(back, sources, g[i][:, heads])
            to[0][i][:, heads], to[1][0, i][:, heads] = to_x, to_dt
            for k, group in enumerate(groups):
                to[2][i][:, group] += to_b[:, k]
                to[3][i][:, group] += to_c[:, k]
    for slot, gradient in zip((1, 2, 4, 5), to, strict=True):
        back.give(node, slot, lambda gradient=gradient: gradient)  # type: ignore[misc]


def _scan(back: "Backward", sources: tuple[F32Array, ...], g: F32Array) -> tuple[F32Array, ...]:
    """Of a few heads: the gradients of x, Δ, B and C, the latter two as each head has them."""
    x, dt, decay, b, c = sources
    step = np.where(dt > _LINEAR, dt, np.log1p(np.exp(np.minimum(dt, _LINEAR)))).astype(np.float32)
    run = np.cumsum(step.astype(np.float64) * decay, axis=0).T  # (n_head, n_tokens)
    kept = np.tril(np.exp(np.minimum(run[:, :, None] - run[:, None, :], 0))).astype(np.float32)
    keys, queries, inputs, grads = _heads(b), _heads(c), _heads(x * step[:, :, None]), _heads(g)
    mixed = back.products(queries, _turned(keys)) * kept
    to_mixed = back.products(grads, _turned(inputs))
    to_scores, to_inputs = to_mixed * kept, back.products(_turned(mixed), grads).swapaxes(0, 1)
    flow = to_mixed * mixed
    to_run = (flow.sum(axis=2) - flow.sum(axis=1)).T
    to_step = np.cumsum(to_run[::-1], axis=0)[::-1] * decay + (to_inputs * x).sum(axis=2)
    to_keys, to_queries = back.products(_turned(to_scores), queries), back.products(to_scores, keys)
    return to_inputs * step[:, :, None], to_step * sigmoid(dt), to_keys.swapaxes(0, 1), to_queries.swapaxes(0, 1)


def _heads(values: F32Array) -> F32Array:
    """(n_head, n_tokens, n) of (n_tokens, n_head, n)."""
    return np.ascontiguousarray(values.swapaxes(0, 1))


def _turned(values: F32Array) -> F32Array:
    return np.ascontiguousarray(values.swapaxes(1, 2))
