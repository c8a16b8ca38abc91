"""Guessed types keep the size and say that they are guessed."""

import pytest

from ggufkit.errors import UsageError
from ggufkit.fitting.guess import guess
from ggufkit.fitting.sensitivity import tried_tensors
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.plan import QuantPlan
from ggufkit.recipes.recipe import Recipe
from ggufkit.recipes.search import Target
from tests.recipes.shapes import Shape, model_of

MODEL = model_of(Shape("llama", 2, 256, 512, 8, 2, 4000, n_expert=4))


def plan_of(recipe: Recipe) -> QuantPlan:
    return make_plan(MODEL, recipe, importance={t.name for t in MODEL.tensors})


@pytest.mark.parametrize("bpw", [3.5, 4.5, 6.0])
def test_a_guess_keeps_the_size_and_nearly_uses_it(bpw: float) -> None:
    plan = plan_of(guess(Target(bpw=bpw), MODEL, plan_of))
    assert 0.93 * bpw < 8 * plan.file_nbytes / plan.n_weights <= bpw
    tried = {t.name for t in tried_tensors(MODEL)}
    assert tried and {t.reason for t in plan.tensors if t.name in tried} == {"guessed"}


def test_a_divergence_cannot_be_guessed() -> None:
    with pytest.raises(UsageError, match="known after measuring only"):
        guess(Target(kld=0.1), MODEL, plan_of)


def test_a_size_out_of_reach_is_refused_with_the_range() -> None:
    with pytest.raises(UsageError, match=r"1000 bytes is out of reach: the types at hand give \d+ to \d+"):
        guess(Target(nbytes=1000), MODEL, plan_of)
