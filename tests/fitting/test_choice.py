"""Types under a target, from costs that are made up: what is solved, what is tried in the model and remembered."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ggufkit.errors import UsageError
from ggufkit.fitting import choice
from ggufkit.fitting.choice import check_target, types_for_target
from ggufkit.fitting.notebook import Notebook
from ggufkit.fitting.sensitivity import tried_tensors
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.plan import QuantPlan
from ggufkit.recipes.recipe import Recipe
from ggufkit.recipes.search import Problem, Sensitivity, Target, search
from quant import quant_type
from tests.recipes.shapes import Shape, model_of

MODEL = model_of(Shape("llama", 2, 256, 512, 8, 2, 4000, n_expert=4))
TYPES = ("Q2_K", "Q4_K", "Q6_K", "Q8_0")


def plan_of(recipe: Recipe) -> QuantPlan:
    return make_plan(MODEL, recipe, importance={t.name for t in MODEL.tensors})


def costs(nats: float) -> dict[str, Sensitivity]:
    errors = {name: 4.0 ** -quant_type(name).bpw for name in TYPES}
    return {t.name: Sensitivity(errors, nats) for t in tried_tensors(MODEL)}


def solved(nats: float, target: Target) -> dict[str, str]:
    return search(Problem(tried_tensors(MODEL), costs(nats), plan_of, "searched"), target).types


@pytest.fixture
def tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Costs as they are read off, and a model whose divergence is three times what they predict."""
    seen: list[Mapping[str, str]] = []

    def tried(types: Mapping[str, str], *_: object, **__: object) -> float:
        seen.append(types)
        return 3 * sum(costs(1.0)[name].alone(kind) for name, kind in types.items())

    monkeypatch.setattr(choice, "measure_costs", lambda *_: costs(1.0))
    monkeypatch.setattr(choice, "tried_divergence", tried)
    evidence: Any = SimpleNamespace(notebook=Notebook(tmp_path / "kept", "identity"))
    return SimpleNamespace(evidence=evidence, seen=seen)


def test_a_size_is_solved_without_running_the_model(tries: Any) -> None:
    target = Target(bpw=5.0)
    found = types_for_target(target, MODEL, tries.evidence, plan_of=plan_of, n_probe=8)
    assert found.types == solved(1.0, target) and not tries.seen


def test_a_divergence_is_tried_once_and_all_costs_are_scaled_by_it(tries: Any) -> None:
    target = Target(kld=0.002)
    found = types_for_target(target, MODEL, tries.evidence, plan_of=plan_of, n_probe=8)
    assert tries.seen == [solved(1.0, target)]
    assert found.types == solved(3.0, target) != solved(1.0, target)
    again = types_for_target(target, MODEL, tries.evidence, plan_of=plan_of, n_probe=8)
    assert again.types == found.types and len(tries.seen) == 1
    types_for_target(target, MODEL, tries.evidence, plan_of=plan_of, n_probe=4)
    assert len(tries.seen) == 2  # of other chunks nothing was known


def test_targets_that_cannot_be_are_refused_before_anything_is_measured() -> None:
    check_target(Target(kld=0.1), MODEL, plan_of)
    check_target(Target(bpw=5.0), MODEL, plan_of)
    with pytest.raises(UsageError, match="give one of --target-size"):
        check_target(Target(nbytes=10**6, kld=0.1), MODEL, plan_of)
    with pytest.raises(UsageError, match="out of reach"):
        check_target(Target(nbytes=1000), MODEL, plan_of)
