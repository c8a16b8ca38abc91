"""Rows that make each other's errors good: what is lost at one output is made up for at those that act like it.

What is made small is what errors of a matrix do to the predictions, as two matrices of second moments tell it:

    Σ_t (g_tᵀ ΔW x_t)²  ≈  tr(G ΔW H ΔWᵀ)        H of the inputs, (n_per_row, n_per_row)
                                                  G of the gradients at the outputs, (n_rows, n_rows)

`quant.feedback` knows H, and takes each row by itself, as if G were diagonal. Here a row's target is moved by the
errors of the rows before it, as a column's is by those of the columns before:

    G = A D Aᵀ, A unit upper triangular          target of row i  =  w_i - Σ_{j before i} A[j, i] Δw_j

which leaves Σ_i D_i (row i's error under H). Rows are encoded some at a time, those that matter most first: what is
encoded first is made good by all that follow. Groups of rows know nothing of each other, so that each can be
encoded by itself. Tseng et al., YAQA (2505.22988). Knows arrays alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant import feedback
from quant.codec import dequantize
from quant.covariance import Each
from quant.curvature import Curvature, damping_for, decompose
from quant.products import product
from quant.types import QuantType

F32Array = NDArray[np.float32]
I64Array = NDArray[np.int64]
U8Array = NDArray[np.uint8]

MAX_ROWS = 4096  # of a matrix whose rows are coupled, which mostly leaves out the wide side of a feed-forward block
GROUP_ROWS = 2048
GROUP_WEIGHTS = 1 << 22  # a group is in memory at once, with its errors
STEPS = 16  # that a group is encoded in
LEAST_ROWS = 32  # of a step: fewer take nearly as long
LEAST_WIDE_ROWS, WIDE = 64, 2048  # the same where a step's time goes by in reading moments of so many columns
DAMPING = 3.0  # times that of inputs: G and H do not tell all of how gradients and inputs go together


def group_rows(n_rows: int, n_per_row: int) -> int:
    """Rows of a group of such a matrix, in as few and as equal groups as go; 0 where rows are not coupled."""
    if n_rows > MAX_ROWS:
        return 0
    n_group = -(-n_rows // max(1, min(GROUP_ROWS, GROUP_WEIGHTS // n_per_row)))
    return -(-n_rows // n_group)


def step_rows(size: int, n_per_row: int) -> int:
    """Rows of a group of that size that are encoded at once."""
    return max(LEAST_WIDE_ROWS if n_per_row > WIDE else LEAST_ROWS, -(-size // STEPS))


@dataclass(frozen=True, slots=True)
class Coupling:
    """How the rows of a matrix depend on each other, one entry for each group.

    order  (n_group, size) rows of the group as they are encoded; a last group may have fewer
    pull   (n_group, size, size) float32, A in that order above the diagonal, D on it; anything below it
    """

    order: I64Array
    pull: F32Array

    @property
    def size(self) -> int:
        return int(self.pull.shape[1])

    @property
    def nbytes(self) -> int:
        return self.pull.nbytes


def coupling(moments: F32Array, n_tokens: float, each: Each = map) -> Coupling:
    """From mean second moments of gradients (n_group, size, size) over so many tokens; they are used up.

    each  `map`, or that of a pool whose threads share the work; the result is the same
    """
    orders = np.empty(moments.shape[:2], dtype=np.int64)
    for g, order in zip(moments, orders, strict=True):
        g[np.diag_indices_from(g)] += np.float32(
            DAMPING * damping_for(n_tokens, len(g)) * max(float(np.mean(np.diagonal(g))), 1e-30)
        )
        order[:] = np.argsort(-np.diagonal(g), kind="stable")
        g[:] = g[np.ix_(order, order)]
        decompose(g, each)
    return Coupling(orders, moments)


def encode(
    w: F32Array, qtype: QuantType, curve: Curvature, rows: Coupling, *, first: int, n_refine: int = 0
) -> U8Array:
    """As `feedback.encode`: whole groups of a matrix's rows, which begin with row `first`. Raises what that does, and
    ValueError for rows that do not begin a group."""
    if first % rows.size:
        raise ValueError(f"row {first} does not begin a group of {rows.size}")
    out = np.empty((len(w), qtype.row_nbytes(w.shape[1])), dtype=np.uint8)
    for at in range(0, len(w), rows.size):
        group, own = (first + at) // rows.size, w[at : at + rows.size]
        order, pull = rows.order[group][: len(own)], rows.pull[group]  # rows that a last group lacks come last
        lost = np.empty(own.shape, dtype=np.float32)  # in the order of encoding
        for step in _steps(own, rows.size):
            target = _moved(own[order[step]], pull, lost, step)
            blocks = feedback.encode(target, qtype, curve, n_refine=n_refine)
            lost[step] = dequantize(blocks, qtype) - own[order[step]]
            out[at + order[step]] = blocks
    return out


def _steps(w: F32Array, size: int) -> list[slice]:
    n, step = len(w), step_rows(size, w.shape[1])
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _moved(w: F32Array, pull: F32Array, lost: F32Array, step: slice) -> F32Array:
    """What rows are encoded towards, once those before them are."""
    before = slice(0, step.start)
    return w - product(np.ascontiguousarray(pull[before, step].T), lost[before]) if step.start else w
