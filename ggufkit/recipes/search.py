"""From measured losses and a target to an ordinary recipe: what is read, edited and replayed like one written by hand.

Knows plans and the solver. Does not know how losses were measured. The file's size is that of the finished plan, header
and padding included: a target is never exceeded.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import quant
from ggufkit.errors import UsageError
from ggufkit.formats.model import ModelTensor
from ggufkit.recipes.plan import QuantPlan
from ggufkit.recipes.quantizable import layer_of
from ggufkit.recipes.recipe import Recipe, RecipeRule
from quant.allocate import Allocation, Choice, Group, fewest_bytes, least_loss, reachable

_ALIGNMENT = 32


class Target(NamedTuple):
    """What to aim for; exactly one is given. `bpw` counts all weights of the model, kept tensors included."""

    nbytes: int | None = None
    bpw: float | None = None
    kld: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A recipe and why.

    allocation  of the groups, in their order
    plan        the whole file
    buys        what one step up would buy: "blk.3.ffn_down_exps.weight to Q5_K: 0.00021 nats for 73728 bytes"
    """

    recipe: Recipe
    allocation: Allocation
    groups: tuple[Group, ...]
    plan: QuantPlan
    buys: str

    @property
    def kld(self) -> float:
        """Predicted mean KL divergence, nats: the losses of all tensors added up."""
        return self.allocation.loss


def groups_of(tensors: Sequence[ModelTensor], losses: Mapping[str, Mapping[str, float]]) -> tuple[Group, ...]:
    """One group a tensor. `losses`: by tensor and type name, nats. Types that cost more bytes for no less loss go."""
    groups = []
    for tensor in tensors:
        rows = sorted((_padded(tensor, name), loss, name) for name, loss in losses[tensor.name].items())
        kept: list[Choice] = []
        for nbytes, loss, name in rows:
            if not kept or loss < kept[-1].loss:
                kept.append(Choice(name, nbytes, loss))
        groups.append(Group(tensor.name, tuple(kept)))
    return tuple(groups)


PlanOf = Callable[[Recipe], QuantPlan]


def search(groups: Sequence[Group], target: Target, plan_of: PlanOf, *, name: str) -> Found:
    """The recipe of least predicted divergence within the target's size, or the smallest within its divergence.

    plan_of  the finished plan of a recipe, with all the metadata that the file will carry

    Raises UsageError for a target that the types at hand cannot reach, with the range that they can.
    """
    if target.kld is not None:
        try:
            return _found(groups, fewest_bytes(groups, target.kld), plan_of, name)
        except quant.QuantError as error:
            raise UsageError(f"--max-kld {target.kld:g}: {error}. Allow more, or choose a type with --type.") from error
    low, high = reachable(groups)
    smallest = _found(groups, least_loss(groups, low), plan_of, name)
    bpw_nbytes = (target.bpw or 0.0) * smallest.plan.n_weights / 8
    wanted = target.nbytes if target.nbytes is not None else int(bpw_nbytes)
    budget = wanted - (smallest.plan.file_nbytes - smallest.allocation.nbytes)
    for _ in range(8):  # the recipe stands in the file's own header, so that its length has a say
        if budget < low:
            break
        found = _found(groups, least_loss(groups, budget), plan_of, name)
        if found.plan.file_nbytes <= wanted:
            return found
        budget -= found.plan.file_nbytes - wanted
    largest = _found(groups, least_loss(groups, high), plan_of, name)
    raise UsageError(
        f"a file of {wanted} bytes is out of reach: the types at hand give {smallest.plan.file_nbytes} to "
        f"{largest.plan.file_nbytes} bytes. Choose a size in that range."
    )


def _found(groups: Sequence[Group], allocation: Allocation, plan_of: PlanOf, name: str) -> Found:
    chosen = {g.name: g.choices[i] for g, i in zip(groups, allocation.chosen, strict=True)}
    recipe = Recipe(name=name, default=_usual(chosen), rules=tuple(_rules(chosen)))
    return Found(recipe, allocation, tuple(groups), plan_of(recipe), _buys(groups, allocation))


def _rules(chosen: Mapping[str, Choice]) -> list[RecipeRule]:
    """One rule for each part of the layers and type, one for each tensor outside the layers."""
    layers: dict[tuple[str, str], list[str]] = defaultdict(list)
    rules = []
    for tensor, choice in chosen.items():
        if layer_of(tensor) < 0:
            rules.append(RecipeRule(type=choice.name, match=tensor, reason=_reason([choice])))
        else:
            layers[tensor.split(".", 2)[2], choice.name].append(tensor)
    for (part, type_name), names in layers.items():
        choices = [chosen[name] for name in names]
        numbers = _ranges(sorted(layer_of(name) for name in names))
        rules.append(RecipeRule(type=type_name, match=f"blk.*.{part}", layers=numbers, reason=_reason(choices)))
    return rules


def _reason(choices: Sequence[Choice]) -> str:
    return f"predicted KLD {sum(choice.loss for choice in choices):.1e}"


def _buys(groups: Sequence[Group], allocation: Allocation) -> str:
    if allocation.next_choice is None:
        return "nothing: every tensor has its best type"
    g, c = allocation.next_choice
    group, now, then = groups[g], groups[g].choices[allocation.chosen[g]], groups[g].choices[c]
    saved, nbytes = now.loss - then.loss, then.nbytes - now.nbytes
    return f"{group.name} from {now.name} to {then.name}: {saved:.2g} nats for {nbytes} bytes"


def _usual(chosen: Mapping[str, Choice]) -> str:
    """The type of most bytes."""
    weight: Counter[str] = Counter()
    for choice in chosen.values():
        weight[choice.name] += choice.nbytes
    return weight.most_common(1)[0][0]


def _ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 7] -> "0-2,7"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _padded(tensor: ModelTensor, type_name: str) -> int:
    nbytes = quant.quant_type(type_name).row_nbytes(tensor.n_per_row) * tensor.n_rows * tensor.n_expert
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
