"""Slabs are as large as the memory allows, and the peak that is said is the sum of its parts."""

import re

import pytest

from ggufkit.encoding import slabs
from ggufkit.encoding.encoder import BYTES_PER_WEIGHT
from ggufkit.encoding.memory import BASE_NBYTES, fixed_nbytes, slab_size, slabs_nbytes, widest_rows
from ggufkit.errors import UsageError
from ggufkit.recipes.build import make_plan
from tests.recipes.shapes import SHAPES, model_of

PLAN = make_plan(model_of(SHAPES["mixtral-8x7b"]), "Q4_K_M")
MIB = 1 << 20


def size(max_memory: int, *, n_slabs: int = 9, held: int = 0) -> tuple[int, int]:
    return slab_size(PLAN, n_slabs, max_memory, held_nbytes=held, bytes_per_weight=BYTES_PER_WEIGHT)


def test_with_plenty_slabs_stay_small_enough_to_share_the_work() -> None:
    weights, peak = size(64 << 30)
    assert weights == slabs.SLAB_WEIGHTS
    assert peak == fixed_nbytes(PLAN) + 9 * weights * BYTES_PER_WEIGHT < 1 << 30


@pytest.mark.parametrize("max_memory", [400 * MIB, 512 * MIB, 700 * MIB])
def test_the_peak_keeps_the_cap_and_uses_it(max_memory: int) -> None:
    weights, peak = size(max_memory)
    assert peak <= max_memory
    assert weights == slabs.SLAB_WEIGHTS or peak > max_memory - MIB


def test_what_is_held_counts() -> None:
    assert size(64 << 30, held=500 * MIB)[1] == size(64 << 30)[1] + 500 * MIB


def test_the_least_that_is_named_is_enough() -> None:
    with pytest.raises(UsageError, match=r"too small: 8 threads on slabs of 14336 weights need \d+MiB") as refused:
        size(BASE_NBYTES)
    least = int(re.search(r"need (\d+)MiB", str(refused.value))[1]) * MIB  # type: ignore[index]
    weights, peak = size(least)
    assert weights >= widest_rows(PLAN) and peak <= least
    assert peak == fixed_nbytes(PLAN) + slabs_nbytes(PLAN, 9, weights, BYTES_PER_WEIGHT)
