"""Plans of real models as text that a person can review, and their sizes as published."""

from collections.abc import Callable

import pytest

from ggufkit.recipes.build import make_plan
from ggufkit.reports.fold import fold
from tests.recipes.shapes import SHAPES, model_of

GOLDEN = {
    "mixtral-8x7b": ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "IQ3_M"),
    "llama-2-7b": ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M"),
    "llama-2-70b": ("Q3_K_S", "Q4_K_M"),
    "mistral-7b": ("Q2_K", "Q4_K_S", "Q4_K_M"),
    "phi-2": ("Q3_K_M", "Q4_K_M"),
    "llama-3.2-1b": ("Q4_K_M",),
    "odd-rows": ("Q4_K_M", "IQ4_XS"),
}

# GiB of Mixtral 8x7B. Q6_K and Q8_0 are files that were published; the others follow from llama.cpp's rules.
MIXTRAL_GIB = {
    "Q2_K": 16.12,
    "Q3_K_S": 19.03,
    "Q3_K_M": 21.00,
    "Q3_K_L": 22.51,
    "Q4_K_S": 24.91,
    "Q4_K_M": 26.49,
    "Q5_K_S": 30.02,
    "Q5_K_M": 30.95,
    "Q6_K": 35.74,
    "Q8_0": 46.22,
    "F16": 86.99,
}


def plan_text(shape_name: str, type_name: str) -> str:
    plan = make_plan(model_of(SHAPES[shape_name]), type_name)
    lines = [f"# {shape_name} {type_name}: {plan.file_nbytes} bytes, {plan.bpw:.4f} bpw, file type {plan.file_type}"]
    for group in fold((t.name, (t.tensor.shape, t.qtype.name, t.reason)) for t in plan.tensors):
        first = plan.tensors[group.members[0]]
        shape = "x".join(map(str, first.tensor.shape))
        lines.append(f"{group.name}  {shape}  {first.qtype}  {first.nbytes * len(group.members)}  {first.reason}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("shape_name", GOLDEN)
def test_plans_are_as_reviewed(shape_name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"plans/{shape_name}.txt", "\n".join(plan_text(shape_name, name) for name in GOLDEN[shape_name]))


@pytest.mark.parametrize("type_name", MIXTRAL_GIB)
def test_mixtral_has_the_known_size(type_name: str) -> None:
    plan = make_plan(model_of(SHAPES["mixtral-8x7b"]), type_name)
    assert round(plan.file_nbytes / 2**30, 2) == MIXTRAL_GIB[type_name]


def test_offsets_are_aligned_and_do_not_overlap() -> None:
    plan = make_plan(model_of(SHAPES["odd-rows"]), "Q4_K_M")
    end = 0
    for tensor in plan.tensors:
        assert tensor.offset % plan.alignment == 0
        assert end <= tensor.offset < end + plan.alignment
        end = tensor.offset + tensor.nbytes
    assert plan.file_nbytes >= plan.data_offset + end
