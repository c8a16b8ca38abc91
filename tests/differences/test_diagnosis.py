"""Faults planted in matrices made by hand are named; an honest encoding is not, and its expected error is its own."""

import numpy as np
import pytest

from ggufkit.differences.diagnosis import explain
from tests.differences.made import Rows, measured, model, tensor, weights

STACK = weights(4, 16, 64)
MATRIX = STACK[0]


def said(base: Rows, candidate: Rows, *, expected: float = 1e-6, dtype: str = "F32", name: str = "w") -> list[str]:
    original = model(tensor(name, base), tensor("twin", weights(*base.shape, seed=9)))
    (one,) = measured(original, model(tensor(name, candidate, dtype)))
    return [f"{found.kind} {found.message}" for found in explain(one, original, expected)]


def test_experts_that_went_round_are_told_from_swapped_ones() -> None:
    assert said(STACK, STACK) == []
    assert said(STACK, STACK[[0, 3, 2, 1]]) == ["experts w: experts 1 and 3 are swapped"]
    assert said(STACK, STACK[[1, 1, 2, 3]]) == ["experts w: expert 0 holds the original's expert 1"]
    (message,) = said(STACK, STACK[[1, 2, 0, 3]])
    assert message.count("holds the original's expert") == 3


def test_rows_that_were_moved_in_one_expert() -> None:
    moved = STACK.copy()
    moved[2, [3, 5]] = moved[2, [5, 3]]
    wanted = "rows w expert 2: rows are permuted, 2 of 16 moved: row 3 holds the original's row 5"
    assert said(STACK, moved) == [wanted]


@pytest.mark.parametrize(("name", "n_head"), [("blk.0.attn_q.weight", 4), ("blk.0.attn_k.weight", 2)])
def test_rope_is_told_by_the_heads_of_queries_and_of_keys(name: str, n_head: int) -> None:
    base, order = weights(32, 64), np.arange(32).reshape(n_head, 2, -1).swapaxes(1, 2).ravel()
    (twice,) = said(base, base[order], name=name)
    (never,) = said(base, base[np.argsort(order)], name=name)
    assert twice == f"rope {name}: the RoPE permutation has been applied twice"
    assert never == f"rope {name}: the rows stand as Hugging Face has them, the RoPE permutation is missing"
    assert said(base, base[order])[0].startswith("rows w: rows are permuted")


def test_rows_of_nowhere_and_of_another_tensor() -> None:
    alien = MATRIX.copy()
    alien[:4] = weights(4, 64, seed=5)
    (message,) = said(MATRIX, alien)
    assert message.startswith("alien w: 4 of 16 rows does not resemble the original (relative error ")
    (message,) = said(MATRIX, weights(16, 64, seed=9))
    assert message.startswith("swapped w: the tensor resembles the original's twin ")


def test_sizes_and_losses_beyond_what_the_type_explains() -> None:
    assert said(MATRIX, 1.2 * MATRIX, expected=0.1) == []
    assert said(MATRIX, 1.5 * MATRIX) == ["scaled w: the weights are 1.5 times the original's"]
    noisy = MATRIX + 0.2 * weights(16, 64, seed=3)
    assert said(MATRIX, noisy, expected=0.1) == []
    (message,) = said(MATRIX, noisy, expected=0.05)
    assert message.startswith("loss w: relative error 0.2") and message.endswith("F32 alone gives 0.0500")


def test_weights_that_are_not_finite_are_placed() -> None:
    bad = STACK.copy()
    bad[1, 7, 5:8], bad[1, 9, 0] = np.inf, np.nan
    where = "4 weights are not finite, the first in row 7, column 5 (inf), 2 rows in all"
    assert said(STACK, bad) == [f"nan w expert 1: {where}"]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_weights_that_are_not_finite_hide_no_other_fault(value: float) -> None:
    swapped = STACK[[0, 3, 2, 1]]
    swapped[1, 7, 5] = value
    assert said(STACK, swapped)[1:] == ["experts w: experts 1 and 3 are swapped"]
    moved = MATRIX[[1, 0, *range(2, 16)]]
    moved[0, 5] = value
    assert said(MATRIX, moved)[1:] == ["rows w: rows are permuted, 2 of 16 moved: row 0 holds the original's row 1"]
