"""From measured sensitivities and a target to an ordinary recipe: read, edited and replayed like one written by hand.

Tensors stored with relative output errors r are predicted to move the model by D = Σ a r nats.

Knows plans and the solver. Does not know how sensitivities were measured. The file's size is that of the finished plan,
header and padding included: a target is never exceeded.
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

_ALIGNMENT = 32  # of tensors in a file: GGUF's default
_MAX_ROUNDS = 8


class Target(NamedTuple):
    """What to aim for; exactly one is given. `bpw` counts all weights of the model, kept tensors included."""

    nbytes: int | None = None
    bpw: float | None = None
    kld: float | None = None


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What storing one tensor in some type costs.

    errors  relative output error r by type name
    nats    a, what an error of 1 would cost
    """

    errors: Mapping[str, float]
    nats: float

    def alone(self, type_name: str) -> float:
        """D with this tensor alone in that type, nats."""
        return self.nats * self.errors[type_name]


@dataclass(frozen=True, slots=True)
class Found:
    """A recipe and why.

    kld         predicted mean KL divergence, nats
    allocation  of the groups, in their order
    plan        the whole file
    buys        what one step up would buy: "blk.3.ffn_down_exps.weight to Q5_K: 0.00021 nats for 73728 bytes"
    """

    recipe: Recipe
    kld: float
    allocation: Allocation
    groups: tuple[Group, ...]
    plan: QuantPlan
    buys: str

    @property
    def types(self) -> dict[str, str]:
        """Type by tensor."""
        return {g.name: g.choices[i].name for g, i in zip(self.groups, self.allocation.chosen, strict=True)}


PlanOf = Callable[[Recipe], QuantPlan]
Solve = Callable[[Sequence[Group]], Allocation]


class Problem:
    """Tensors, what each costs at each type, and the finished plan of a recipe."""

    def __init__(
        self, tensors: Sequence[ModelTensor], sensitivities: Mapping[str, Sensitivity], plan_of: PlanOf, name: str
    ) -> None:
        self._tensors, self._costs, self._plan_of, self._name = tensors, sensitivities, plan_of, name

    def groups(self) -> tuple[Group, ...]:
        """One group a tensor. Types of more bytes and no less loss go."""
        groups = []
        for tensor in self._tensors:
            cost = self._costs[tensor.name]
            rows = sorted((_padded(tensor, name), cost.alone(name), name) for name in cost.errors)
            kept: list[Choice] = []
            for nbytes, loss, name in rows:
                if not kept or loss < kept[-1].loss:
                    kept.append(Choice(name, nbytes, loss))
            groups.append(Group(tensor.name, tuple(kept)))
        return tuple(groups)

    def solve(self, solver: Solve) -> Found:
        """What `solver` picks of the groups, as a recipe and its plan."""
        groups = self.groups()
        allocation = solver(groups)
        chosen = {g.name: g.choices[i] for g, i in zip(groups, allocation.chosen, strict=True)}
        recipe = Recipe(name=self._name, default=_usual(chosen), rules=tuple(_rules(chosen)))
        return Found(recipe, allocation.loss, allocation, groups, self._plan_of(recipe), _buys(groups, allocation))


def search(problem: Problem, target: Target) -> Found:
    """The recipe of least predicted divergence within the target's size, or the smallest within its divergence.

    Raises UsageError for a target that the types at hand cannot reach, with the range that they can.
    """
    if target.kld is not None:
        kld = target.kld
        try:
            return problem.solve(lambda groups: fewest_bytes(groups, kld))
        except quant.QuantError as error:
            finest = problem.solve(lambda groups: least_loss(groups, reachable(groups)[1]))
            raise UsageError(
                f"--max-kld {kld:g} is out of reach: the best types at hand give {finest.kld:.2g}. Allow more, or keep "
                "a 16-bit type with --type."
            ) from error
    smallest = problem.solve(lambda groups: least_loss(groups, reachable(groups)[0]))
    bpw_nbytes = (target.bpw or 0.0) * smallest.plan.n_weights / 8
    wanted = target.nbytes if target.nbytes is not None else int(bpw_nbytes)
    budget = wanted - (smallest.plan.file_nbytes - smallest.allocation.nbytes)
    for _ in range(_MAX_ROUNDS):  # the recipe stands in the file's own header, so that its length has a say
        if budget < smallest.allocation.nbytes:
            break
        found = problem.solve(lambda groups, room=budget: least_loss(groups, room))  # type: ignore[misc]
        if found.plan.file_nbytes <= wanted:
            return found
        # from what was used: a smaller room that the same types still fit would give them again
        budget = found.allocation.nbytes - (found.plan.file_nbytes - wanted)
    largest = problem.solve(lambda groups: least_loss(groups, reachable(groups)[1]))
    raise UsageError(
        f"a file of {wanted} bytes is out of reach: the types at hand give {smallest.plan.file_nbytes} to "
        f"{largest.plan.file_nbytes} bytes. Choose a size in that range."
    )


def _rules(chosen: Mapping[str, Choice]) -> list[RecipeRule]:
    """One rule for each part of the layers and type, one for each tensor outside the layers."""
    layers: dict[tuple[str, str], list[str]] = defaultdict(list)
    rules = []
    for tensor, choice in chosen.items():
        if layer_of(tensor) < 0:
            rules.append(RecipeRule(type=choice.name, match=tensor, reason=_reason(choice.loss)))
        else:
            layers[tensor.split(".", 2)[2], choice.name].append(tensor)
    for (part, type_name), names in layers.items():
        numbers = _ranges(sorted(layer_of(name) for name in names))
        rules.append(
            RecipeRule(
                type=type_name,
                match=f"blk.*.{part}",
                layers=numbers,
                reason=_reason(sum(chosen[name].loss for name in names)),
            )
        )
    return rules


def _reason(kld: float) -> str:
    return f"predicted KLD {kld:.1e}"


def _buys(groups: Sequence[Group], allocation: Allocation) -> str:
    if allocation.next_choice is None:
        return "nothing, every tensor has its best type"
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
