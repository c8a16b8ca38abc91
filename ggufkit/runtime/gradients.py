"""One function an operation of llama.cpp's graph: the gradient of its result, to what its sources get of it.

Source of the operations: ggml.h, ggml-cpu/ops.cpp.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.runtime.gated_gradients import glu, unary
from ggufkit.runtime.state_gradients import ssm_conv, ssm_scan
from ggufkit.runtime.tape import F32Array, Matrix, Node, looked_up

if TYPE_CHECKING:
    from ggufkit.runtime.backward import Backward


def _mul_mat(back: "Backward", node: Node, g: F32Array) -> None:
    if node.matrix is None:
        return _mul_mat_computed(back, node, g)
    if node.matrix.shape[0] * node.matrix.shape[1] == 1:
        rows = np.ascontiguousarray(g.reshape(-1, g.shape[-1]))
        back.output(node.weight, rows[:, None], None)
        matrix = node.matrix
        back.give(node, 1, lambda: back.through(rows, matrix).reshape(node.sources[1].shape))
        return None
    return _mul_mat_stack(back, node, g, node.matrix)


def _mul_mat_stack(back: "Backward", node: Node, g: F32Array, matrix: Matrix) -> None:
    """One matrix a head, or for as many heads in a row as there are more heads than matrices."""
    heads = np.ascontiguousarray(g[0])  # (n_head, n_tokens, n_rows)
    which = np.repeat(np.arange(matrix.shape[1], dtype=np.int32), len(heads) // matrix.shape[1])
    by_token = heads.swapaxes(0, 1)
    back.output(node.weight, by_token, np.broadcast_to(which, by_token.shape[:2]))
    back.give(node, 1, lambda: back.products(heads, np.stack([matrix.rows(int(i)) for i in which]))[None])


def _mul_mat_computed(back: "Backward", node: Node, g: F32Array) -> None:
    """y[i] = b[i] @ a[i // repeats]ᵀ of every head; a has fewer heads where they share keys and values."""
    a, b = node.kept[0], node.kept[1]
    heads = (-1, *a.shape[-2:])
    repeats = b.shape[-3] // a.shape[-3]
    wide = np.repeat(a, repeats, axis=-3).reshape(heads)
    flat_g, flat_b = g.reshape(-1, *g.shape[-2:]), b.reshape(-1, *b.shape[-2:])
    back.give(node, 1, lambda: back.products(flat_g, wide).reshape(b.shape))

    def to_first() -> F32Array:
        each = back.products(np.ascontiguousarray(flat_g.transpose(0, 2, 1)), flat_b)
        out: F32Array = each.reshape(*a.shape[:-3], -1, repeats, *a.shape[-2:]).sum(axis=-3)
        return out

    back.give(node, 0, to_first)


def _mul_mat_id(back: "Backward", node: Node, g: F32Array) -> None:
    experts, matrix = node.kept[2][0, 0], node.matrix
    assert matrix is not None
    rows = np.ascontiguousarray(g[0])  # (n_tokens, n_slot, n_rows)
    back.output(node.weight, rows, experts)

    def to_inputs() -> F32Array:
        shape = node.sources[1].shape  # (1, n_tokens, 1 or n_slot, n_per_row)
        out = np.zeros(shape[1:], dtype=np.float32)
        for expert in np.unique(experts):
            token, slot = np.nonzero(experts == expert)
            part = back.through(rows[token, slot], matrix, int(expert))
            np.add.at(out, (token, slot if shape[2] > 1 else np.zeros_like(slot)), part)
        return out[None]

    back.give(node, 1, to_inputs)


def _add(back: "Backward", node: Node, g: F32Array) -> None:
    for slot in (0, 1):
        back.give(node, slot, lambda slot=slot: _folded(g, node.sources[slot].shape))  # type: ignore[misc]


def _sub(back: "Backward", node: Node, g: F32Array) -> None:
    back.give(node, 0, lambda: g)
    back.give(node, 1, lambda: _folded(-g, node.sources[1].shape))


def _mul(back: "Backward", node: Node, g: F32Array) -> None:
    a, b = node.kept[0], node.kept[1]
    back.give(node, 0, lambda: g * _tiled(b, g.shape))
    back.give(node, 1, lambda: _folded(g * a, b.shape))


def _div(back: "Backward", node: Node, g: F32Array) -> None:
    a, b = node.kept[0], _tiled(node.kept[1], g.shape)
    back.give(node, 0, lambda: g / b)
    back.give(node, 1, lambda: _folded(-g * a / (b * b), node.sources[1].shape))


def _scale(back: "Backward", node: Node, g: F32Array) -> None:
    back.give(node, 0, lambda: g * node.float_param(0))


def _copy(back: "Backward", node: Node, g: F32Array) -> None:
    back.give(node, 0, lambda: g.reshape(node.sources[0].shape))


def _rms_norm(back: "Backward", node: Node, g: F32Array) -> None:
    x = node.kept[0]
    r = 1 / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + node.float_param(0))
    back.give(node, 0, lambda: r * g - x * (r**3 * (g * x).mean(axis=-1, keepdims=True)))


def _norm(back: "Backward", node: Node, g: F32Array) -> None:
    x = node.kept[0] - node.kept[0].mean(axis=-1, keepdims=True)
    r = 1 / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + node.float_param(0))
    y = r * x
    back.give(
        node, 0,
        lambda: r * (g - g.mean(axis=-1, keepdims=True) - y * (g * y).mean(axis=-1, keepdims=True)),
    )  # fmt: skip


def _l2_norm(back: "Backward", node: Node, g: F32Array) -> None:
    x = node.kept[0]
    r = 1 / np.maximum(np.sqrt(np.square(x).sum(axis=-1, keepdims=True)), node.float_param(0))
    back.give(node, 0, lambda: r * g - x * (r**3 * (g * x).sum(axis=-1, keepdims=True)))


def _soft_max(back: "Backward", node: Node, g: F32Array) -> None:
    y = node.kept[-1]
    back.give(node, 0, lambda: node.float_param(0) * (y * (g - (g * y).sum(axis=-1, keepdims=True))))


def _rope(back: "Backward", node: Node, g: F32Array) -> None:
    """The rotation of each position and pair is read off what it did: y = R x gives R, whatever made its angles."""
    x, y = node.kept[0], node.kept[-1]
    n_dims, mode = int(node.params[1]), int(node.params[2])
    first, second = _pairs(n_dims, mode)
    x1, x2, y1, y2 = x[..., first], x[..., second], y[..., first], y[..., second]
    size = (x1 * x1 + x2 * x2).sum(axis=-2, keepdims=True)
    cos = (x1 * y1 + x2 * y2).sum(axis=-2, keepdims=True) / np.maximum(size, 1e-30)
    sin = (x1 * y2 - x2 * y1).sum(axis=-2, keepdims=True) / np.maximum(size, 1e-30)

    def turned_back() -> F32Array:
        out = g.copy()
        out[..., first] = g[..., first] * cos + g[..., second] * sin
        out[..., second] = g[..., second] * cos - g[..., first] * sin
        return out

    back.give(node, 0, turned_back)


def _pairs(n_dims: int, mode: int) -> tuple[slice, slice]:
    """Which columns turn together: neighbours, or one of each half (NEOX and similar)."""
    if mode & 2 or mode & 8:
        return slice(0, n_dims // 2), slice(n_dims // 2, n_dims)
    return slice(0, n_dims, 2), slice(1, n_dims, 2)


def _sqr(back: "Backward", node: Node, g: F32Array) -> None:
    back.give(node, 0, lambda: 2 * node.kept[0] * g)


def _sqrt(back: "Backward", node: Node, g: F32Array) -> None:
    back.give(node, 0, lambda: g / (2 * np.maximum(node.kept[-1], 1e-30)))


def _mean(back: "Backward", node: Node, g: F32Array) -> None:
    shape = node.sources[0].shape
    back.give(node, 0, lambda: np.broadcast_to(g / np.float32(shape[-1]), shape))


def _sum_rows(back: "Backward", node: Node, g: F32Array) -> None:
    back.give(node, 0, lambda: np.broadcast_to(g, node.sources[0].shape))


def _concat(back: "Backward", node: Node, g: F32Array) -> None:
    axis = 3 - int(node.params[0])
    first = node.sources[0].shape[axis]
    back.give(node, 0, lambda: np.take(g, range(first), axis))
    back.give(node, 1, lambda: np.take(g, range(first, g.shape[axis]), axis))


def _pad(back: "Backward", node: Node, g: F32Array) -> None:
    """What was put around it, before and behind by axis from the last one, takes no gradient."""
    shape = node.sources[0].shape
    before = [int(node.params[2 * (3 - axis)]) for axis in range(4)]
    inside = tuple(slice(first, first + n) for first, n in zip(before, shape, strict=True))
    back.give(node, 0, lambda: g[inside])


def _repeat(back: "Backward", node: Node, g: F32Array) -> None:
    back.give(node, 0, lambda: _folded(g, node.sources[0].shape))


def _clamp(back: "Backward", node: Node, g: F32Array) -> None:
    low, high = node.float_param(0), node.float_param(1)
    back.give(node, 0, lambda: np.where((node.kept[0] >= low) & (node.kept[0] <= high), g, 0))


def _get_rows(back: "Backward", node: Node, g: F32Array) -> None:
    if node.weight:
        rows = np.ascontiguousarray(g.reshape(-1, g.shape[-1]))
        back.output(looked_up(node.weight), rows[:, None], None)
        return

    def scattered() -> F32Array:
        out = np.zeros(node.sources[0].shape, dtype=np.float32)  # (n2, n1, n_rows, n)
        for (outer, inner), rows in _by_batch(node.kept[1]):
            np.add.at(out[outer, inner], rows, g[outer, inner])
        return out

    back.give(node, 0, scattered)


def _set_rows(back: "Backward", node: Node, g: F32Array) -> None:
    def gathered() -> F32Array:
        out = np.empty(node.sources[0].shape, dtype=np.float32)
        for (outer, inner), rows in _by_batch(np.broadcast_to(node.kept[1], (1, *node.sources[0].shape[:-1]))):
            out[outer, inner] = g[outer, inner][rows]
        return out

    back.give(node, 0, gathered)


def _by_batch(index: NDArray[Any]) -> Iterator[tuple[tuple[int, int], NDArray[Any]]]:
    """Rows (n,) of every pair of outer dimensions of an index (1, n2, n1, n)."""
    for outer in range(index.shape[1]):
        for inner in range(index.shape[2]):
            yield (outer, inner), index[0, outer, inner]


def _folded(g: F32Array, shape: tuple[int, ...]) -> F32Array:
    """Sums over what was repeated, down to `shape`."""
    for axis, (wide, narrow) in enumerate(zip(g.shape, shape, strict=True)):
        if wide != narrow:
            split = (*g.shape[:axis], wide // narrow, narrow, *g.shape[axis + 1 :])
            g = g.reshape(split).sum(axis=axis)
    return g


def _tiled(x: F32Array, shape: tuple[int, ...]) -> F32Array:
    """`x` repeated up to `shape`."""
    if all(n in (1, wide) for n, wide in zip(x.shape, shape, strict=True)):
        return np.broadcast_to(x, shape)
    return np.tile(x, [wide // n for wide, n in zip(shape, x.shape, strict=True)])


RULES: dict[str, Callable[["Backward", Node, F32Array], None]] = {
    "MUL_MAT": _mul_mat, "MUL_MAT_ID": _mul_mat_id, "ADD": _add, "SUB": _sub, "MUL": _mul, "DIV": _div, "SCALE": _scale,
    "ADD_ID": _add, "CONT": _copy, "CPY": _copy, "DUP": _copy, "CONCAT": _concat, "PAD": _pad, "REPEAT": _repeat,
    "RMS_NORM": _rms_norm, "NORM": _norm, "L2_NORM": _l2_norm,
    "SOFT_MAX": _soft_max, "ROPE": _rope, "GLU": glu, "UNARY": unary, "SQR": _sqr, "SUM_ROWS": _sum_rows,
    "SQRT": _sqrt, "MEAN": _mean,
    "SSM_CONV": ssm_conv, "SSM_SCAN": ssm_scan, "CLAMP": _clamp, "GET_ROWS": _get_rows, "SET_ROWS": _set_rows,
}  # fmt: skip
