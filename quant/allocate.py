"""One type for each group of tensors under a byte budget: the multiple-choice knapsack, solved exactly.

States (bytes, loss) are merged group by group. A state is dropped when another has no more bytes and no more loss, or
when even its best completion, bounded from below by the Lagrange dual, is no better than a solution at hand. Both rules
keep an optimum, so the answer is one; the dual bound is returned as a certificate that anyone can check.

    dual(λ) = Σ_groups min_choices (loss + λ · bytes)  -  λ · budget    ≤    loss of any choice within the budget

Knows numbers. Does not know tensors, types or how losses were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.errors import ShapeError

F64Array = NDArray[np.float64]
I64Array = NDArray[np.int64]


class Choice(NamedTuple):
    """One type that a group may get. `loss` in nats of KL divergence, or whatever is added up."""

    name: str
    nbytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that get one type together."""

    name: str
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise ShapeError(f"{self.name} has no type to choose from")


@dataclass(frozen=True, slots=True)
class Allocation:
    """The best choice.

    chosen       index of the choice of each group
    nbytes       of all groups
    loss         of all groups
    bound        no choice within the budget has less loss than this (dual, before rounding)
    next_choice  (group index, choice index) of the step that would save most loss a byte, None at the top
    """

    chosen: tuple[int, ...]
    nbytes: int
    loss: float
    bound: float
    next_choice: tuple[int, int] | None


def reachable(groups: Sequence[Group]) -> tuple[int, int]:
    """Fewest and most bytes that the choices can make."""
    sizes = [[choice.nbytes for choice in group.choices] for group in groups]
    return sum(map(min, sizes)), sum(map(max, sizes))


def least_loss(groups: Sequence[Group], budget_nbytes: int) -> Allocation:
    """The choice of least loss with at most `budget_nbytes`. Raises ShapeError where none fits, with the range."""
    low, high = reachable(groups)
    if budget_nbytes < low:
        raise ShapeError(f"{budget_nbytes} bytes are out of reach: the types at hand give {low} to {high} bytes")
    loss = [np.array([choice.loss for choice in group.choices], dtype=np.float64) for group in groups]
    nbytes = [np.array([choice.nbytes for choice in group.choices], dtype=np.float64) for group in groups]
    chosen, bound = _solve(loss, nbytes, float(min(budget_nbytes, high)))
    return _allocation(groups, chosen, bound)


def fewest_bytes(groups: Sequence[Group], max_loss: float) -> Allocation:
    """The smallest choice with at most `max_loss`. Raises ShapeError where none is that good, with the range."""
    loss = [np.array([choice.loss for choice in group.choices], dtype=np.float64) for group in groups]
    nbytes = [np.array([choice.nbytes for choice in group.choices], dtype=np.float64) for group in groups]
    low, high = sum(float(part.min()) for part in loss), sum(float(part.max()) for part in loss)
    if max_loss < low:
        raise ShapeError(f"a loss of {max_loss:g} is out of reach: the types at hand give {low:.4g} to {high:.4g}")
    chosen, _ = _solve(nbytes, loss, min(max_loss, high))
    found = _allocation(groups, chosen, 0.0)
    return least_loss(groups, found.nbytes)  # among the smallest the best, with its certificate


def _allocation(groups: Sequence[Group], chosen: Sequence[int], bound: float) -> Allocation:
    picked = [group.choices[index] for group, index in zip(groups, chosen, strict=True)]
    best: tuple[float, tuple[int, int]] | None = None
    for g, group in enumerate(groups):
        now = picked[g]
        for c, choice in enumerate(group.choices):
            if choice.nbytes > now.nbytes and choice.loss < now.loss:
                rate = (now.loss - choice.loss) / (choice.nbytes - now.nbytes)
                if best is None or rate > best[0]:
                    best = (rate, (g, c))
    return Allocation(
        chosen=tuple(chosen),
        nbytes=sum(choice.nbytes for choice in picked),
        loss=float(sum(choice.loss for choice in picked)),
        bound=bound,
        next_choice=best[1] if best else None,
    )


def _solve(costs: list[F64Array], weights: list[F64Array], limit: float) -> tuple[list[int], float]:
    """Index per group with least summed cost and summed weight ≤ limit; and the dual bound on that cost."""
    price, bound, upper = _dual(costs, weights, limit)
    rest = _suffix_sums([float((c + price * w).min()) for c, w in zip(costs, weights, strict=True)])
    lightest = _suffix_sums([float(w.min()) for w in weights])
    slack = 1e-9 * (abs(upper) + 1e-300)
    weight, cost = np.zeros(1), np.zeros(1)
    trail: list[tuple[I64Array, I64Array]] = []
    for g, (c, w) in enumerate(zip(costs, weights, strict=True)):
        new_weight = (weight[:, None] + w).reshape(-1)
        new_cost = (cost[:, None] + c).reshape(-1)
        fits = new_weight + lightest[g + 1] <= limit * (1 + 1e-12)
        hopeful = new_cost + price * (new_weight - limit) + rest[g + 1] <= upper + slack
        at = np.flatnonzero(fits & hopeful)
        at = at[np.lexsort((new_cost[at], new_weight[at]))]
        falling = np.ones(len(at), dtype=bool)
        falling[1:] = new_cost[at][1:] < np.minimum.accumulate(new_cost[at])[:-1]
        at = at[falling]
        weight, cost = new_weight[at], new_cost[at]
        trail.append((at // len(c), at % len(c)))
    state = int(np.argmin(cost))
    chosen = []
    for parent, choice in reversed(trail):
        chosen.append(int(choice[state]))
        state = int(parent[state])
    return chosen[::-1], bound


def _dual(costs: list[F64Array], weights: list[F64Array], limit: float) -> tuple[float, float, float]:
    """(price, bound, upper): the price λ ≥ 0 of the best dual bound, that bound, and the cost of a choice that fits."""

    def pick(price: float) -> tuple[list[int], float]:
        """Least cost + λ weight, the lightest among equals; and its weight."""
        at = [int(np.lexsort((w, c + price * w))[0]) for c, w in zip(costs, weights, strict=True)]
        return at, sum(float(w[i]) for w, i in zip(weights, at, strict=True))

    def bound_at(price: float) -> float:
        return sum(float((c + price * w).min()) for c, w in zip(costs, weights, strict=True)) - price * limit

    low, high = 0.0, 1e-30
    while pick(high)[1] > limit and high < 1e30:
        high *= 4
    for _ in range(200):
        middle = (low + high) / 2
        if pick(middle)[1] > limit:
            low = middle
        else:
            high = middle
    at, weight = pick(high)
    if weight > limit:  # equal prices all the way: take the lightest
        at = [int(w.argmin()) for w in weights]
    upper = sum(float(c[i]) for c, i in zip(costs, at, strict=True))
    price = max((low, high), key=bound_at)
    return price, bound_at(price), upper


def _suffix_sums(values: list[float]) -> list[float]:
    """s[i] = values[i] + values[i + 1] + …; one longer than `values`."""
    out = [0.0]
    for value in reversed(values):
        out.append(out[-1] + value)
    return out[::-1]
