"""Second moments of an expert's inputs, factored: what an error in each column costs once the others made it good.

H = A D Aᵀ with A unit upper triangular and D diagonal; see `quant.feedback`. Knows one expert's moments; does not know
where they come from.

Columns are taken in groups, those of a super-block together, groups whose inputs are largest first: what is rounded
first is made good by all that follows. (GPTQ's act-order, for whole super-blocks, whose scales neighbours share.)

    U = A √D, in blocks of LEAF columns, the last first:

    H = | B  C |    C = U₁ U₀ᵀ  with  U₀ U₀ᵀ = E        B - U₁ U₁ᵀ is what remains to be factored
        | Cᵀ E |

In float32, as the moments are summed: damping leaves no direction below what is lost to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.covariance import Each
from quant.products import product

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]
I64Array = NDArray[np.int64]

DAMPING = 0.04  # of the mean of H's diagonal, added to the diagonal, with any number of tokens
DAMPING_PER_TOKEN = 1.6  # more where there are few: times columns over tokens
LEAF = 128  # columns that are factored in one piece
GROUPS = (256, 32, 1)  # columns that are rounded together: the largest that divides a block of columns
LINES = 256  # of what remains are a thread's task


@dataclass(frozen=True, slots=True)
class Curvature:
    """What the encoder needs to know of one expert's inputs; one entry for each diagonal block of columns.

    moments  (n_block, width, width) float32, H damped
    order    (n_block, width) columns as they are rounded, in whole groups
    factor   (n_block, width, width) float32 of H in that order, D on the diagonal and A above it; below it anything may
             stand
    A row's last block may be narrower: its columns are the first of what is there.
    """

    moments: F32Array
    order: I64Array
    factor: F32Array

    @property
    def width(self) -> int:
        return int(self.moments.shape[1])

    def fits(self, n_per_row: int) -> bool:
        """Whether it is of rows of so many columns."""
        return self.width * (len(self.moments) - 1) < n_per_row <= self.width * len(self.moments)

    @property
    def column_cost(self) -> F32Array:
        """(n_block * width,) D: the cost of a unit error in a column after those that follow it made it good."""
        cost = np.empty(self.order.shape, dtype=np.float32)
        np.put_along_axis(cost, self.order, np.diagonal(self.factor, axis1=1, axis2=2), axis=1)
        return cost.reshape(-1)


def damping_for(n_tokens: float, width: int) -> float:
    """Share of the mean diagonal to add to moments of `n_tokens` tokens and `width` columns.

    Few tokens leave directions that look free and are not: with 500, 1,600 and 7,000 tokens an expert of 256 columns,
    the held-out error was least at about 0.4, 0.15 and 0.05.
    """
    return DAMPING + DAMPING_PER_TOKEN * width / max(n_tokens, 1.0)


def curvature(moments: F32Array, *, damping: float = DAMPING, each: Each = map, in_place: bool = False) -> Curvature:
    """Factor the mean second moments (n_block, width, width) of one expert. Columns never used are given no weight.

    each      `map`, or that of a pool whose threads share the work; the factor is the same
    in_place  `moments` is damped itself, which spares its copy
    """
    damped = moments if in_place else moments.copy()
    for h in damped:
        level = damping * max(float(np.mean(np.diagonal(h))), 1e-20)
        h[np.diag_indices_from(h)] += np.float32(level)
    order = np.stack([_order(h) for h in damped])
    factors = np.empty_like(damped)
    for h, columns, factor in zip(damped, order, factors, strict=True):
        for first in range(0, len(h), LINES):  # no second copy in between
            lines = slice(first, first + LINES)
            factor[lines] = np.take(h[columns[lines]], columns, axis=1)
        decompose(factor, each)
    return Curvature(damped, order, factors)


def _order(h: F32Array) -> I64Array:
    """Columns by the mean of their group's diagonal, the largest first."""
    size = next(size for size in GROUPS if len(h) % size == 0)
    groups = np.arange(len(h)).reshape(-1, size)
    mean = np.diagonal(h).reshape(-1, size).mean(axis=1, dtype=np.float64)
    return groups[np.argsort(-mean, kind="stable")].reshape(-1)


def decompose(h: F32Array, each: Each = map) -> None:
    """Make h (n, n), symmetric, its factor: D on the diagonal and A above it. What remains to be factored is kept below
    the diagonal."""
    for last in range(len(h), 0, -LEAF):
        at = slice(max(0, last - LEAF), last)
        root, inverse = _root(h[at, at])
        scale = np.diagonal(root)
        h[at, at] = np.triu(root / scale, 1) + np.diag(np.square(scale))
        if at.start:
            _eliminate(h, at, inverse.astype(np.float32), scale.astype(np.float32)[:, None], each)


def _root(h: F32Array) -> tuple[F64Array, F64Array]:
    """Upper triangular U with h = U Uᵀ, and its inverse: with P the reversal of order, PhP = CᵀC, U = P Cᵀ P."""
    from quant.kernels.feedback import invert_factor

    root = np.ascontiguousarray(np.tril(h)[::-1, ::-1], dtype=np.float64)
    inverse = np.zeros_like(root)
    invert_factor(root, inverse)
    return np.triu(root).T[::-1, ::-1], inverse.T[::-1, ::-1]


def _eliminate(h: F32Array, at: slice, inverse: F32Array, scale: F32Array, each: Each) -> None:
    """The columns `at` of A before them, and what remains of the columns before."""
    from quant.kernels.products import add_product

    x = np.empty((len(inverse), at.start), dtype=np.float32)

    def solve(first: int) -> None:
        lines = slice(first, min(first + LINES, at.start))
        x[:, lines] = product(inverse, h[at], lines)
        h[lines, at] = (x[:, lines] / scale).T

    def subtract(first: int) -> None:
        last = min(first + LINES, at.start)
        add_product(np.ascontiguousarray(-x[:, first:last].T), x, 0, h, first, last)

    for step in (solve, subtract):
        for _ in each(step, range(0, at.start, LINES)):
            pass
