"""Which tensors' moments are gathered in one walk through the calibration text, and how much memory they take.

Knows names, shapes and a number of bytes. Does not know texts or models. Moments of one walk are in memory at a time.
"""

from collections.abc import Iterable, Mapping
from itertools import groupby

from ggufkit.recipes.quantizable import layer_of
from quant.covariance import block_width, n_blocks, strips_size

MAX_WIDTH = 9216  # columns that know of each other; wider rows are cut into blocks
MAX_EXPERT_WIDTH = 4096  # the same of an expert among others, which sees fewer tokens and has seven beside it in memory
Shape = tuple[int, int]  # (n_expert, n_per_row)


def width_of(shape: Shape) -> int:
    """Columns of a tensor that know of each other."""
    n_expert, n_per_row = shape
    return block_width(n_per_row, MAX_WIDTH if n_expert == 1 else MAX_EXPERT_WIDTH)


def plan_walks(shapes: Mapping[str, Shape], max_nbytes: int) -> list[frozenset[str]]:
    """Names that are gathered together, in order: as many tensors as have moments of `max_nbytes` together.

    A walk holds at least one tensor, so it may be larger where memory is short; see `walks_nbytes`.
    """
    out: list[list[str]] = []
    used = 0
    for name, shape in shapes.items():
        need = moments_nbytes(shape)
        if not out or used + need > max_nbytes:
            out.append([])
            used = 0
        out[-1].append(name)
        used += need
    return [frozenset(names) for names in out]


def plan_layer_walks(shapes: Mapping[str, Shape], max_nbytes: int) -> list[frozenset[str]]:
    """The same where layers are run one after the other: no walk goes beyond a layer. What stands outside the layers is
    gathered behind the last one, whose walks come last."""
    last = max(map(layer_of, shapes), default=-1)

    def place(name: str) -> int:
        return layer_of(name) if layer_of(name) >= 0 else last

    out: list[frozenset[str]] = []
    for _, names in groupby(sorted(shapes, key=place), key=place):
        out += plan_walks({name: shapes[name] for name in names}, max_nbytes)
    return out


def walks_nbytes(walks: list[frozenset[str]], shapes: Mapping[str, Shape]) -> int:
    """Most bytes of moments at once: those of the largest walk."""
    return max((walk_nbytes(names, shapes) for names in walks), default=0)


def walk_nbytes(names: Iterable[str], shapes: Mapping[str, Shape]) -> int:
    """Bytes of the moments of some tensors in both parts of the text; each weighs its tokens in its own way."""
    return sum(moments_nbytes(shapes[name]) for name in names)


def moments_nbytes(shape: Shape) -> int:
    """Bytes of both parts of one tensor."""
    n_expert, n_per_row = shape
    width = width_of(shape)
    return 2 * 4 * n_expert * n_blocks(n_per_row, width) * strips_size(width)
