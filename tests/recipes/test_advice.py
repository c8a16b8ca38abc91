"""What is said of tensors that fall back: how many, from what to what, and what would fit better."""

from pathlib import Path

import pytest

from ggufkit.architectures.source import open_source
from ggufkit.recipes.advice import fallback_note
from ggufkit.recipes.build import make_plan

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.mark.parametrize("mixture", ["Q4_K_M", "Q2_K", "Q6_K", "Q5_K_S", "Q8_0"])
def test_the_count_is_that_of_tensors_with_another_type_than_the_mixture_has(mixture: str) -> None:
    with open_source(MODELS / "stories260K") as model:
        plan = make_plan(model, mixture)
        note = fallback_note(model, plan, None)
    # rows of 64 and 172 columns; the mixture's own types are in blocks of 256, Q8_0 in blocks of 32
    blocks = 32 if mixture == "Q8_0" else 256
    moved = [t for t in plan.tensors if " instead" in t.reason]
    assert moved
    assert note.startswith(f"{len(moved)} of {len(plan.tensors)} tensors fall back to another type")
    assert f"do not divide into blocks of {blocks}" in note
    pairs = {(t.wanted, t.qtype.name) for t in moved}
    assert all(f"{got} for {wanted}" in note for wanted, got in pairs)
    assert f"so it has {plan.bpw:.2f}" in note


def test_a_better_mixture_is_named_with_its_bits() -> None:
    with open_source(MODELS / "stories260K") as model:
        note = fallback_note(model, make_plan(model, "Q6_K"), None)
        offered = note.partition("--type ")[2].partition(" has ")
        assert f"{make_plan(model, offered[0]).bpw:.2f}" == offered[2][:4]


@pytest.mark.parametrize("mixture", ["Q4_K_M", "Q2_K", "F16"])
def test_nothing_is_said_where_every_row_divides(mixture: str) -> None:
    with open_source(MODELS / "tiny-mixtral") as model:
        assert fallback_note(model, make_plan(model, mixture), None) == ""
