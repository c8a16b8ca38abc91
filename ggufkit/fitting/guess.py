"""Types for a size before anything is measured, by their bits alone: for plans, and to refuse what is out of reach."""

from dataclasses import replace

import quant
from ggufkit.errors import UsageError
from ggufkit.fitting.sensitivity import candidates, tried_tensors
from ggufkit.formats.model import Model
from ggufkit.recipes.recipe import Recipe
from ggufkit.recipes.search import PlanOf, Problem, Sensitivity, Target, search

NOTE = "these types are a guess from sizes alone: quantize measures what each costs this model, and chooses again"


def guess(target: Target, model: Model, plan_of: PlanOf) -> Recipe:
    """The recipe for a size, every tensor taken as equally sensitive and each bit as a fourth of the error.

    Raises UsageError for a size that no types make, and for a divergence, which only measuring tells.
    """
    if target.kld is not None:
        raise UsageError(
            "how large a file of that divergence gets is known after measuring only. Run it with --save-recipe, then "
            "look at the plan of that recipe; or plan a size with --target-size or --target-bpw."
        )
    alike = {
        t.name: Sensitivity({name: 4.0 ** -quant.quant_type(name).bpw for name in candidates(t)}, 1.0)
        for t in tried_tensors(model)
    }
    recipe = search(Problem(tried_tensors(model), alike, plan_of, "guessed"), target).recipe
    return replace(recipe, rules=tuple(replace(rule, reason="guessed") for rule in recipe.rules))
