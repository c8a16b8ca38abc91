"""Second moments X^T X of the inputs of each expert: what error feedback needs to know of them.

Very wide rows are kept as a chain of diagonal blocks, so that memory stays bounded: a block's columns know of each
other, not of the columns of other blocks.

    (n_per_row, n_per_row), of which only the blocks are kept:   [ C0 |    |    ]
                                                                 [    | C1 |    ]    each (width, width)
                                                                 [    |    | C2 ]

The last one may be narrower than `width`: it is kept as wide as the others, and is zero beyond its columns.

Of a block, which is symmetric, strips of LINES lines are kept, each from its diagonal on, one behind the other:

    [ s0 s0 s0 s0 ]
    [    s1 s1 s1 ]      half of the memory, and a little
    [       s2 s2 ]

Knows arrays. Does not know files, tensor names or types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.errors import NonFiniteError, ShapeError
from quant.importance import rows_by_expert

F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]
I64Array = NDArray[np.int64]
F64Array = NDArray[np.float64]

Each = Callable[..., Iterable[None]]

SUPER_BLOCK = 256
LINES = 256  # of the sums are a strip, and a thread's task


@dataclass(slots=True)
class Covariance:
    """Sums of outer products of one weight tensor's inputs; grows in place by `add`.

    sums    (n_expert, n_block, strips_size(width)) float32, each block's strips
    counts  (n_expert,) int64, tokens
    mass    (n_expert,) float64, what these tokens weigh together: their number where all weigh alike
    width   columns of a block
    n_per_row  of all of them
    layer   (n_block, strips_size(width)) the sum over all experts, kept once it was asked for, until `forget`
    """

    sums: F32Array
    counts: I64Array
    mass: F64Array
    width: int
    n_per_row: int
    _layer: F32Array | None = None

    @classmethod
    def zeros(cls, n_expert: int, n_per_row: int, *, width: int | None = None) -> Covariance:
        """`width` columns of a block; the whole row without."""
        width = width or n_per_row
        sums = np.zeros((n_expert, n_blocks(n_per_row, width), strips_size(width)), dtype=np.float32)
        return cls(sums, np.zeros(n_expert, dtype=np.int64), np.zeros(n_expert), width, n_per_row)

    def add(self, x: F32Array, experts: I32Array | None, weights: F32Array | None = None, each: Each = map) -> None:
        """Add one batch; shapes as in `quant.importance.input_sums`.

        weights  (n_tokens, 1 or n_used) what each token counts for in each of its products, None where all count 1
        each     `map`, or that of a pool whose threads share the lines of the sums, which come out the same
        """
        if x.shape[2] != self.n_per_row:
            raise ShapeError(f"inputs have {x.shape[2]} columns, the covariance {self.n_per_row}")
        if not np.isfinite(x).all():
            raise NonFiniteError("activations are NaN or infinite")
        if weights is not None:
            x = x * np.sqrt(weights)[:, :, None]
        self.forget()
        for expert, rows in rows_by_expert(x, experts, len(self.sums)):
            self._add_rows(expert, rows, each)
            chosen = slice(None) if experts is None else experts == expert
            self.mass[expert] += len(rows) if weights is None else float(weights[chosen].sum(dtype=np.float64))

    @property
    def layer(self) -> F32Array:
        layer = self._layer
        if layer is None:
            layer = self._layer = self.sums.sum(axis=0)
        return layer

    def forget(self) -> None:
        """Give the memory of `layer` back."""
        self._layer = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was seen, or nothing but zeros."""
        return not any(diagonals(kept, self.width).any() for kept in self.sums)

    def mean(self, expert: int, prior: float = 0.0) -> F32Array:
        """Mean second moments of one expert (n_block, width, width), symmetric.

        prior  mass of the mean over all experts that is added to the expert's own
        """
        return squares(pooled_mean((self,), expert, prior), self.width)

    def _add_rows(self, expert: int, rows: F32Array, each: Each) -> None:
        from quant.kernels.products import add_product

        width = self.width
        parts = [np.ascontiguousarray(rows[:, at : at + width]) for at in range(0, self.n_per_row, width)]
        parts[-1] = np.pad(parts[-1], ((0, 0), (0, width - parts[-1].shape[1])))

        def add(task: tuple[int, Strip]) -> None:
            block, strip = task
            x, out = parts[block], strip.of(self.sums[expert, block])
            add_product(np.ascontiguousarray(x[:, strip.lines].T), x, strip.first, out, 0, width - strip.first)

        for _ in each(add, [(block, strip) for block in range(len(parts)) for strip in strips(width)]):
            pass
        self.counts[expert] += len(rows)


class Strip(NamedTuple):
    """Lines [first, last) of a block from column `first` on, which begin at `start` of what is kept of it."""

    first: int
    last: int
    width: int
    start: int

    @property
    def lines(self) -> slice:
        return slice(self.first, self.last)

    @property
    def stop(self) -> int:
        return self.start + (self.last - self.first) * (self.width - self.first)

    def of(self, kept: F32Array) -> F32Array:
        """The strip (last - first, width - first) of a block, a view."""
        return kept[self.start : self.stop].reshape(self.last - self.first, -1)


def strips(width: int) -> list[Strip]:
    """Those of a block, in their order."""
    out: list[Strip] = []
    for first in range(0, width, LINES):
        out.append(Strip(first, min(first + LINES, width), width, out[-1].stop if out else 0))
    return out


def strips_size(width: int) -> int:
    """Floats that are kept of a block."""
    return strips(width)[-1].stop


def squares(kept: F32Array, width: int) -> F32Array:
    """The whole of each block (n_block, width, width), from strips (n_block, strips_size(width))."""
    out = np.empty((len(kept), width, width), dtype=np.float32)
    for block, one in zip(kept, out, strict=True):
        for strip in strips(width):
            part = strip.of(block)
            one[strip.lines, strip.first :] = part
            one[strip.first :, strip.lines] = part.T
    return out


def diagonals(kept: F32Array, width: int) -> F32Array:
    """(n_block * width,) the diagonals of such blocks, one behind the other."""
    return np.concatenate([np.diagonal(strip.of(block)) for block in kept for strip in strips(width)])


def pooled_mean(parts: Sequence[Covariance], expert: int, prior: float = 0.0) -> F32Array:
    """Mean second moments of one expert in what several covariances of one tensor saw together, as strips."""
    total: F32Array = parts[0].sums[expert].copy()
    for part in parts[1:]:
        total += part.sums[expert]
    if prior:
        share = np.float32(prior / sum(float(part.mass.sum()) for part in parts))
        for part in parts:
            total += share * part.layer
    mass = sum(float(part.mass[expert]) for part in parts) + prior
    if mass > 0:
        total /= np.float32(mass)
    return total


def block_width(n_per_row: int, max_width: int) -> int:
    """Columns of a block: the row where it fits, else whole super-blocks, in as few and as equal blocks as go."""
    if n_per_row <= max_width:
        return n_per_row
    n_super = -(-n_per_row // SUPER_BLOCK)
    return SUPER_BLOCK * -(-n_super // -(-n_super // (max_width // SUPER_BLOCK)))


def n_blocks(n_per_row: int, width: int) -> int:
    """Blocks of a row."""
    return -(-n_per_row // width)
