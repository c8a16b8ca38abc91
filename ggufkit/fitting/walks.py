"""Which tensors' moments are gathered in one walk through the calibration text, and how much memory they take.

Knows names, shapes and a number of bytes. Does not know texts or models. Moments of one walk are in memory at a time.
"""

from collections.abc import Mapping
from itertools import groupby

from ggufkit.recipes.quantizable import Role, layer_of, role_of
from quant.covariance import block_width

MAX_WIDTH = 4096  # columns that know of each other; wider rows are cut into equal blocks
Shape = tuple[int, int]  # (n_expert, n_per_row)

_ATTENTION = (Role.ATTN_Q, Role.ATTN_K, Role.ATTN_V, Role.ATTN_OUTPUT)


def plan_walks(shapes: Mapping[str, Shape], max_nbytes: int) -> list[frozenset[str]]:
    """Names that are gathered together, in order: as many tensors as have moments of `max_nbytes` together.

    What shares inputs is never parted, so a walk may be larger where memory is short; see `walks_nbytes`.
    """
    out: list[list[str]] = []
    used = 0
    for _, unit in groupby(shapes, key=_unit):
        names = list(unit)
        need = walk_nbytes(names, shapes)
        if not out or used + need > max_nbytes:
            out.append([])
            used = 0
        out[-1] += names
        used += need
    return [frozenset(names) for names in out]


def walks_nbytes(walks: list[frozenset[str]], shapes: Mapping[str, Shape]) -> int:
    """Most bytes of moments at once: those of the largest walk."""
    return max((walk_nbytes(list(names), shapes) for names in walks), default=0)


def walk_nbytes(names: list[str], shapes: Mapping[str, Shape]) -> int:
    """Bytes of the moments of some tensors in both parts of the text; those that share inputs are counted once."""
    kept = {(layer_of(name), _inputs(name), shapes[name]) for name in names}
    return sum(moments_nbytes(shape) for _, _, shape in kept)


def moments_nbytes(shape: Shape) -> int:
    """Bytes of both parts of one tensor."""
    n_expert, n_per_row = shape
    return 2 * 4 * n_expert * n_per_row * block_width(n_per_row, MAX_WIDTH)


def _unit(name: str) -> tuple[int, str]:
    """Tensors that stand side by side in a file and are not parted: a layer's attention, its gate and up."""
    role = role_of(name)
    return layer_of(name), "attention" if role in _ATTENTION else _inputs(name)


def _inputs(name: str) -> str:
    """The same for two tensors of a layer that multiply the same inputs."""
    role = role_of(name)
    if role in (Role.FFN_GATE, Role.FFN_UP):
        return "gate and up"
    if role in (Role.ATTN_Q, Role.ATTN_K, Role.ATTN_V):
        return "q, k and v"
    return str(role) if role is not Role.OTHER else name
