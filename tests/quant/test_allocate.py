"""The solver against brute force, its certificate, and what a bigger budget may do."""

import itertools

import numpy as np
import pytest

from quant.allocate import Choice, Group, fewest_bytes, least_loss, reachable
from quant.errors import ShapeError


def random_groups(seed: int, n_group: int, n_choice: int) -> list[Group]:
    rng = np.random.default_rng(seed)
    groups = []
    for g in range(n_group):
        size = int(rng.integers(1, 40)) * 256
        bits = np.sort(rng.choice(np.arange(16, 70), n_choice, replace=False)) / 8
        loss = rng.gamma(1.0) * 4.0 ** -(bits * rng.uniform(0.5, 1.0)) * rng.uniform(0.5, 2, n_choice)
        choices = [Choice(f"{b:g}", int(size * b / 8), float(v)) for b, v in zip(bits, loss, strict=True)]
        groups.append(Group(f"g{g}", tuple(choices)))
    return groups


def brute_force(groups: list[Group]) -> np.ndarray:
    """(n, 2) bytes and loss of every combination."""
    combos = itertools.product(*(group.choices for group in groups))
    return np.array([(sum(c.nbytes for c in combo), sum(c.loss for c in combo)) for combo in combos])


@pytest.mark.parametrize("seed", range(12))
def test_least_loss_is_brute_force(seed: int) -> None:
    groups = random_groups(seed, 6, 4)
    every = brute_force(groups)
    low, high = reachable(groups)
    for budget in np.linspace(low, high, 7).astype(int):
        found = least_loss(groups, int(budget))
        best = every[every[:, 0] <= budget][:, 1].min()
        assert found.nbytes <= budget
        assert found.loss == pytest.approx(best, rel=1e-9)
        assert found.bound <= best * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_fewest_bytes_is_brute_force(seed: int) -> None:
    groups = random_groups(seed, 6, 4)
    every = brute_force(groups)
    for limit in np.quantile(every[:, 1], [0.05, 0.3, 0.9]):
        found = fewest_bytes(groups, float(limit))
        smallest = every[every[:, 1] <= limit][:, 0].min()
        assert found.nbytes == smallest and found.loss <= limit


def test_a_bigger_budget_is_never_worse() -> None:
    groups = random_groups(3, 60, 8)
    low, high = reachable(groups)
    losses = [least_loss(groups, int(budget)).loss for budget in np.linspace(low, high, 15)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(losses))
    assert losses[-1] == pytest.approx(sum(min(c.loss for c in g.choices) for g in groups))


def test_hundreds_of_groups_are_solved_with_a_tight_certificate() -> None:
    groups = random_groups(4, 226, 9)
    low, high = reachable(groups)
    found = least_loss(groups, (low + high) // 2)
    assert found.nbytes <= (low + high) // 2
    assert found.bound <= found.loss <= found.bound * 1.02


def test_the_next_byte_buys_most_where_it_is_said_to() -> None:
    groups = [
        Group("a", (Choice("small", 10, 1.0), Choice("big", 20, 0.5))),
        Group("b", (Choice("small", 10, 1.0), Choice("big", 20, 0.1))),
    ]
    assert least_loss(groups, 20).next_choice == (1, 1)
    assert least_loss(groups, 40).next_choice is None


def test_out_of_reach_names_the_range() -> None:
    groups = random_groups(5, 3, 3)
    low, high = reachable(groups)
    with pytest.raises(ShapeError, match=f"give {low} to {high} bytes"):
        least_loss(groups, low - 1)
    with pytest.raises(ShapeError, match="out of reach: the types at hand give"):
        fewest_bytes(groups, 0.0)
