"""From losses to a recipe: targets are kept, the recipe replays, what cannot be reached is said."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from ggufkit.architectures.source import open_source
from ggufkit.errors import UsageError
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.plan import QuantPlan
from ggufkit.recipes.quantizable import kept_reason
from ggufkit.recipes.recipe import Recipe, parse_recipe
from ggufkit.recipes.search import Problem, Sensitivity, Solve, Target, search
from quant import quant_type
from quant.allocate import Choice, Group

MODEL = open_source(Path(__file__).resolve().parents[2] / "models" / "tiny-mixtral")
TENSORS = [t for t in MODEL.tensors if kept_reason(t) is None]
TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")


def plan_of(recipe: Recipe) -> QuantPlan:
    return make_plan(MODEL, recipe, importance={t.name for t in TENSORS})


def problem(weight: float = 8.0) -> Problem:
    """Every bit halves the error twice; layer 0 costs `weight` times as much as the others."""
    errors = {name: 4.0 ** -quant_type(name).bpw for name in TYPES}
    costs = {t.name: Sensitivity(errors, weight if "blk.0." in t.name else 1.0) for t in TENSORS}
    return Problem(TENSORS, costs, plan_of, "searched")


def cost(types: dict[str, str], weight: float) -> float:
    return sum((weight if "blk.0." in name else 1.0) * 4.0 ** -quant_type(kind).bpw for name, kind in types.items())


@pytest.mark.parametrize("nbytes", [3_000_000, 3_700_000, 4_705_600, 6_000_000])
def test_a_size_is_never_exceeded_and_nearly_used(nbytes: int) -> None:
    found = search(problem(), Target(nbytes=nbytes))
    assert 0.98 * nbytes < found.plan.file_nbytes <= nbytes


def test_bits_a_weight_count_the_whole_file() -> None:
    found = search(problem(), Target(bpw=4.5))
    n_weights = sum(t.n_weights for t in MODEL.tensors)
    assert 4.4 < 8 * found.plan.file_nbytes / n_weights <= 4.5


def test_the_recipe_replays_to_the_same_plan() -> None:
    found = search(problem(), Target(nbytes=4_000_000))
    again = plan_of(parse_recipe(found.recipe.to_toml(), "searched.toml"))
    assert [(t.name, t.qtype.name) for t in again.tensors] == [(t.name, t.qtype.name) for t in found.plan.tensors]
    chosen = found.types
    assert {t.name: t.qtype.name for t in again.tensors if t.name in chosen} == chosen
    assert all("predicted KLD" in t.reason for t in again.tensors if t.name in chosen)


def test_costly_layers_get_more_bits() -> None:
    found = search(problem(64.0), Target(nbytes=4_000_000))
    bits = {t.name: t.qtype.bpw for t in found.plan.tensors}
    assert bits["blk.0.ffn_up_exps.weight"] > bits["blk.2.ffn_up_exps.weight"]


def test_a_divergence_is_kept_with_few_bytes() -> None:
    loose = search(problem(), Target(kld=0.5))
    tight = search(problem(), Target(kld=0.05))
    assert tight.kld <= 0.05 < loose.kld <= 0.5
    assert loose.plan.file_nbytes < tight.plan.file_nbytes


def test_what_the_next_step_buys_is_said() -> None:
    assert " to Q" in search(problem(), Target(nbytes=4_000_000)).buys
    assert search(problem(), Target(nbytes=1 << 30)).buys.startswith("nothing")


def test_targets_out_of_reach_name_the_range() -> None:
    with pytest.raises(UsageError, match=r"1000000 bytes is out of reach: the types at hand give \d+ to \d+ bytes"):
        search(problem(), Target(nbytes=1_000_000))
    with pytest.raises(UsageError, match=r"--max-kld 1e-09 is out of reach: the best types at hand give"):
        search(problem(), Target(kld=1e-9))


def test_costs_add_up() -> None:
    found = search(problem(), Target(nbytes=4_000_000))
    assert found.kld == pytest.approx(cost(found.types, 8.0))


def test_no_other_choice_of_two_types_is_better() -> None:
    found = search(problem(), Target(nbytes=4_500_000))
    order = [t.name for t in TENSORS]
    for first, second in itertools.combinations(range(len(order)), 2):
        swapped = dict(found.types)
        swapped[order[first]], swapped[order[second]] = swapped[order[second]], swapped[order[first]]
        if TENSORS[first].n_weights == TENSORS[second].n_weights:  # the same bytes
            assert cost(swapped, 8.0) >= found.kld * (1 - 1e-9)


class LongHeader:
    """A problem whose header takes 1,000 bytes more for all but the smallest types."""

    groups = (Group("a", (Choice("Q2_K", 32_000, 1.0), Choice("Q4_K", 64_000, 0.1))),) * 4

    def solve(self, solver: Solve) -> SimpleNamespace:
        allocation = solver(self.groups)
        header = 1_000 if allocation.nbytes == 4 * 32_000 else 2_000
        return SimpleNamespace(
            allocation=allocation, plan=SimpleNamespace(file_nbytes=allocation.nbytes + header, n_weights=1)
        )


@pytest.mark.parametrize("short", [32, 64, 512])
def test_a_room_that_the_same_types_still_fit_is_not_tried_again_and_again(short: int) -> None:
    wanted = 2 * 32_000 + 2 * 64_000 + 2_000 - short
    assert search(LongHeader(), Target(nbytes=wanted)).allocation.nbytes == 3 * 32_000 + 64_000
