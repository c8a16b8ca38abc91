"""From losses to a recipe: targets are kept, the recipe replays, what cannot be reached is said."""

from pathlib import Path

import pytest

from ggufkit.errors import UsageError
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.plan import QuantPlan
from ggufkit.recipes.quantizable import kept_reason
from ggufkit.recipes.recipe import Recipe, parse_recipe
from ggufkit.recipes.search import Target, groups_of, search
from ggufkit.workflows.source import open_source
from quant import quant_type
from quant.allocate import Group

MODEL = open_source(Path(__file__).resolve().parents[2] / "models" / "tiny-mixtral")
TENSORS = [t for t in MODEL.tensors if kept_reason(t) is None]
TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")


def plan_of(recipe: Recipe) -> QuantPlan:
    return make_plan(MODEL, recipe, importance={t.name for t in TENSORS})


def groups(weight: float = 8.0) -> tuple[Group, ...]:
    """Every bit halves the error twice; layer 0 costs `weight` times as much as the others."""
    losses = {
        t.name: {n: (weight if "blk.0." in t.name else 1.0) * 4.0 ** -quant_type(n).bpw for n in TYPES} for t in TENSORS
    }
    return groups_of(TENSORS, losses)


@pytest.mark.parametrize("nbytes", [3_000_000, 3_700_000, 4_705_600, 6_000_000])
def test_a_size_is_never_exceeded_and_nearly_used(nbytes: int) -> None:
    found = search(groups(), Target(nbytes=nbytes), plan_of, name="searched")
    assert 0.98 * nbytes < found.plan.file_nbytes <= nbytes


def test_bits_a_weight_count_the_whole_file() -> None:
    found = search(groups(), Target(bpw=4.5), plan_of, name="searched")
    n_weights = sum(t.n_weights for t in MODEL.tensors)
    assert 4.4 < 8 * found.plan.file_nbytes / n_weights <= 4.5


def test_the_recipe_replays_to_the_same_plan() -> None:
    found = search(groups(), Target(nbytes=4_000_000), plan_of, name="searched")
    again = plan_of(parse_recipe(found.recipe.to_toml(), "searched.toml"))
    assert [(t.name, t.qtype.name) for t in again.tensors] == [(t.name, t.qtype.name) for t in found.plan.tensors]
    chosen = {g.name: g.choices[i].name for g, i in zip(found.groups, found.allocation.chosen, strict=True)}
    assert {t.name: t.qtype.name for t in again.tensors if t.name in chosen} == chosen
    assert all("predicted KLD" in t.reason for t in again.tensors if t.name in chosen)


def test_costly_layers_get_more_bits() -> None:
    found = search(groups(64.0), Target(nbytes=4_000_000), plan_of, name="searched")
    bits = {t.name: t.qtype.bpw for t in found.plan.tensors}
    assert bits["blk.0.ffn_up_exps.weight"] > bits["blk.2.ffn_up_exps.weight"]


def test_a_divergence_is_kept_with_few_bytes() -> None:
    loose = search(groups(), Target(kld=0.5), plan_of, name="searched")
    tight = search(groups(), Target(kld=0.05), plan_of, name="searched")
    assert tight.kld <= 0.05 < loose.kld <= 0.5
    assert loose.plan.file_nbytes < tight.plan.file_nbytes


def test_what_the_next_step_buys_is_said() -> None:
    assert " to Q" in search(groups(), Target(nbytes=4_000_000), plan_of, name="searched").buys
    assert search(groups(), Target(nbytes=1 << 30), plan_of, name="searched").buys.startswith("nothing")


def test_targets_out_of_reach_name_the_range() -> None:
    with pytest.raises(UsageError, match=r"1000000 bytes is out of reach: the types at hand give \d+ to \d+ bytes"):
        search(groups(), Target(nbytes=1_000_000), plan_of, name="searched")
    with pytest.raises(UsageError, match=r"--max-kld 1e-09: a loss of 1e-09 is out of reach"):
        search(groups(), Target(kld=1e-9), plan_of, name="searched")
