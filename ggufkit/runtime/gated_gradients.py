"""Gradients of activation functions, alone (`unary`) and as the gate of a feed-forward network (`glu`)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ggufkit.runtime.tape import F32Array, Node

if TYPE_CHECKING:
    from ggufkit.runtime.backward import Backward

_UNARY = ("ABS", "SGN", "NEG", "STEP", "TANH", "ELU", "RELU", "SIGMOID", "GELU", "GELU_QUICK", "SILU")  # ggml.h
_SWIGLU_OAI = 3  # ggml.h enum ggml_glu_op
_GELU = 0.7978845608028654  # √(2/π)


def glu(back: "Backward", node: Node, g: F32Array) -> None:
    kind, swapped = int(node.params[0]), bool(node.params[1])
    derivative = {0: _relu, 1: _gelu, 2: _silu, 4: _gelu, 5: _gelu_quick}.get(kind)
    if kind == _SWIGLU_OAI:
        return _swiglu_oai(back, node, g)
    if derivative is None:
        back.ended_at.add(f"GLU {kind}")
        return None
    if 1 in node.kept:
        value, slope = derivative(node.kept[0])
        back.give(node, 0, lambda: g * node.kept[1] * slope)
        back.give(node, 1, lambda: g * value)
        return None
    both = node.kept[0]
    half = both.shape[-1] // 2
    gate, up = (both[..., half:], both[..., :half]) if swapped else (both[..., :half], both[..., half:])
    value, slope = derivative(gate)
    parts = (g * value, g * up * slope) if swapped else (g * up * slope, g * value)
    back.give(node, 0, lambda: np.concatenate(parts, axis=-1))
    return None


def _swiglu_oai(back: "Backward", node: Node, g: F32Array) -> None:
    """x / (1 + exp(-α x)) (y + 1), x held below a limit, y within it on both sides; of two sources."""
    if 1 not in node.kept:
        back.ended_at.add("GLU of one source")
        return
    x, y, alpha, limit = node.kept[0], node.kept[1], node.float_param(2), node.float_param(3)
    low, held = np.minimum(x, limit), np.clip(y, -limit, limit)
    s = sigmoid(alpha * low)
    slope = s * (1 + alpha * low * (1 - s)) * (x <= limit)
    back.give(node, 0, lambda: g * slope * (held + 1))
    back.give(node, 1, lambda: g * low * s * (np.abs(y) <= limit))


def unary(back: "Backward", node: Node, g: F32Array) -> None:
    kind, x = int(node.params[0]), node.kept[0]
    name = _UNARY[kind] if kind < len(_UNARY) else ""
    slopes: dict[str, Callable[[], F32Array]] = {
        "NEG": lambda: -np.ones_like(x), "RELU": lambda: _relu(x)[1], "SILU": lambda: _silu(x)[1],
        "GELU": lambda: _gelu(x)[1], "GELU_QUICK": lambda: _gelu_quick(x)[1], "TANH": lambda: 1 - np.tanh(x) ** 2,
        "SIGMOID": lambda: sigmoid(x) * (1 - sigmoid(x)),
    }  # fmt: skip
    if name not in slopes:
        back.ended_at.add(f"UNARY {kind}")
        return
    back.give(node, 0, lambda: g * slopes[name]())


def sigmoid(x: F32Array) -> F32Array:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-x))).astype(np.float32)


def _relu(x: F32Array) -> tuple[F32Array, F32Array]:
    return np.maximum(x, 0), (x > 0).astype(np.float32)


def _silu(x: F32Array) -> tuple[F32Array, F32Array]:
    s = sigmoid(x)
    return x * s, s * (1 + x * (1 - s))


def _gelu(x: F32Array) -> tuple[F32Array, F32Array]:
    t = np.tanh(_GELU * (x + 0.044715 * x**3))
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * _GELU * (1 + 3 * 0.044715 * x * x)


def _gelu_quick(x: F32Array) -> tuple[F32Array, F32Array]:
    s = sigmoid(np.float32(1.702) * x)
    return x * s, s * (1 + np.float32(1.702) * x * (1 - s))
