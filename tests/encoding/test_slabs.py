"""Slabs cover the file's tensor data once, whatever their size, and never cross an expert."""

import pytest

from ggufkit.encoding.slabs import slabs
from ggufkit.recipes.build import make_plan
from tests.recipes.shapes import Shape, model_of

MODEL = model_of(Shape("llama", 2, 256, 512, 8, 2, 300, n_expert=3))
PLAN = make_plan(MODEL, "Q4_K_M")


@pytest.mark.parametrize("weights", [1, 1000, 1 << 12, 1 << 30])
def test_all_bytes_are_covered_once_and_in_order(weights: int) -> None:
    at = PLAN.data_offset
    for slab in slabs(PLAN, weights):
        assert slab.offset == at
        at += slab.nbytes
    assert at == PLAN.file_nbytes


@pytest.mark.parametrize("weights", [1, 1000, 1 << 30])
def test_a_slab_is_whole_rows_of_one_expert(weights: int) -> None:
    for slab in slabs(PLAN, weights):
        tensor = slab.planned.tensor
        assert 0 <= slab.start < slab.stop <= tensor.n_rows
        assert (slab.stop - slab.start) * tensor.n_per_row <= max(weights, tensor.n_per_row)
        last = slab.expert == tensor.n_expert - 1 and slab.stop == tensor.n_rows
        padding = -slab.planned.nbytes % PLAN.alignment if last else 0
        assert slab.nbytes - padding == (slab.stop - slab.start) * slab.planned.qtype.row_nbytes(tensor.n_per_row)


def test_some_tensors_alone() -> None:
    names = {"blk.1.attn_q.weight", "output.weight"}
    assert {slab.planned.name for slab in slabs(PLAN, 1 << 12, names)} == names
    whole = [slab for slab in slabs(PLAN, 1 << 12) if slab.planned.name in names]
    assert list(slabs(PLAN, 1 << 12, names)) == whole
