"""llama.cpp's mixtures: which type each part of a model gets under a name like Q4_K_M. Tables, read top to bottom.

For a tensor the first rule decides whose role, mixture and condition all fit; without one it gets the default type
of the mixture. Nothing here counts as it goes: where a tensor stands among its kind is part of its `Place`.
Does not know shapes that do not fit (fallback), tensors that are kept (quantizable), or files.
Source: llama-quant.cpp llama_tensor_get_type_impl and llama_ftype_get_default_type; the numbers: llama.h llama_ftype.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ggufkit.errors import UsageError
from ggufkit.formats.nearest import unknown
from ggufkit.recipes.quantizable import Role


class Mixture(NamedTuple):
    """A named mixture: llama.cpp's number for general.file_type, and the type that tensors get without a rule."""

    name: str
    ftype: int
    default: str


MIXTURES = (
    Mixture("F32", 0, "F32"),
    Mixture("F16", 1, "F16"),
    Mixture("BF16", 32, "BF16"),
    Mixture("Q8_0", 7, "Q8_0"),
    Mixture("Q6_K", 18, "Q6_K"),
    Mixture("Q5_K_M", 17, "Q5_K"),
    Mixture("Q5_K_S", 16, "Q5_K"),
    Mixture("Q4_K_M", 15, "Q4_K"),
    Mixture("Q4_K_S", 14, "Q4_K"),
    Mixture("Q3_K_L", 13, "Q3_K"),
    Mixture("Q3_K_M", 12, "Q3_K"),
    Mixture("Q3_K_S", 11, "Q3_K"),
    Mixture("Q2_K", 10, "Q2_K"),
    Mixture("Q2_K_S", 21, "Q2_K"),
    Mixture("Q5_1", 9, "Q5_1"),
    Mixture("Q5_0", 8, "Q5_0"),
    Mixture("Q4_1", 3, "Q4_1"),
    Mixture("Q4_0", 2, "Q4_0"),
    Mixture("IQ4_NL", 25, "IQ4_NL"),
    Mixture("IQ4_XS", 30, "IQ4_XS"),
    Mixture("IQ3_M", 27, "IQ3_S"),
    Mixture("IQ3_S", 26, "IQ3_S"),
    Mixture("IQ3_XS", 22, "IQ3_S"),
    Mixture("IQ3_XXS", 23, "IQ3_XXS"),
    Mixture("IQ2_M", 29, "IQ2_S"),
    Mixture("IQ2_S", 28, "IQ2_XS"),
    Mixture("IQ2_XS", 20, "IQ2_XS"),
    Mixture("IQ2_XXS", 19, "IQ2_XXS"),
    Mixture("IQ1_M", 31, "IQ1_M"),
    Mixture("IQ1_S", 24, "IQ1_S"),
    Mixture("TQ2_0", 37, "TQ2_0"),
    Mixture("TQ1_0", 36, "TQ1_0"),
    Mixture("MXFP4_MOE", 38, "MXFP4"),
)
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "MXFP4_MOE"}


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What the conditions below may ask of the model. `is_tied`: token_embd makes the logits too."""

    n_layer: int
    n_attn_v: int
    n_gqa: int
    n_expert: int
    is_tied: bool
    is_falcon: bool
    is_70b: bool
    has_importance: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands: what the conditions below may ask of it.

    index, count  of the tensor among its kind; the layer and their number where experts make counting unreliable
    rank          of the tensor among its kind, always counted
    is_stack      more than one expert in one tensor
    row_divides   its rows divide into blocks of the mixture's default type
    """

    index: int
    count: int
    rank: int
    is_stack: bool
    row_divides: bool
    model: ModelTraits


Condition = Callable[[Place], bool]


class Rule(NamedTuple):
    """Mixtures in `mixtures` (any when empty) give `type` to a tensor for which `when` holds; None: the default."""

    mixtures: str
    type: str | None
    reason: str
    when: Condition = lambda place: True


def first_sixteenth(place: Place) -> bool:
    return place.index < place.count // 16


def first_eighth(place: Place) -> bool:
    return place.index < place.count // 8


def more_bits(place: Place) -> bool:
    """The first and the last eighth, and every third layer between."""
    eighth = place.count // 8
    return place.index < eighth or place.index >= 7 * place.count // 8 or (place.index - eighth) % 3 == 2


def middle(place: Place) -> bool:
    """All but the first and the last eighth."""
    return place.count // 8 <= place.index < 7 * place.count // 8


def eight_experts(place: Place) -> bool:
    return place.model.n_expert == 8


def shared_heads(place: Place) -> bool:
    """Four or more query heads read each key head, so attn_v is small and worth more bits."""
    return place.model.n_gqa >= 4


def no_importance(place: Place) -> bool:
    return not place.model.has_importance


_LOWEST = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M"

# Mixtures of one or two bits have rules of their own; their counters run over every tensor, experts or not.
LOWEST_RULES: dict[Role, tuple[Rule, ...]] = {
    Role.ATTN_V: (
        Rule(
            "",
            "Q4_K",
            "attn_v is small, 4 heads or experts share it",
            lambda p: p.model.n_gqa >= 4 or p.model.n_expert >= 4,
        ),
        Rule("IQ2_S IQ2_M", "IQ3_S", "attn_v"),
        Rule("", "Q2_K", "attn_v"),
    ),
    Role.ATTN_K: (Rule("", "Q4_K", "attn_k is small beside 8 experts", eight_experts),),
    Role.ATTN_OUTPUT: (
        Rule("", "Q5_K", "attn_output is small beside 8 experts", eight_experts),
        Rule("IQ1_S IQ1_M", "IQ2_XXS", "attn_output"),
        Rule("IQ2_S IQ2_M", "IQ3_S", "attn_output"),
    ),
    Role.FFN_DOWN: (
        Rule("IQ2_S IQ2_M", "IQ3_S", "ffn_down, first eighth", lambda p: p.rank < p.count // 8),
        Rule("", "Q2_K", "ffn_down, first eighth", lambda p: p.rank < p.count // 8),
    ),
}

RULES: dict[Role, tuple[Rule, ...]] = {
    Role.TOKEN_EMBD: (
        Rule("IQ1_S IQ1_M IQ2_XXS IQ2_XS", "Q2_K", "token_embd"),
        Rule("IQ2_S IQ2_M IQ3_XXS", "IQ3_S", "token_embd"),
        Rule("TQ1_0 TQ2_0", "Q4_K", "token_embd"),
    ),
    Role.ATTN_V: (
        Rule("", "Q8_0", "attn_v is small beside 8 experts", eight_experts),
        Rule("Q4_K_M Q5_K_M", "Q6_K", "attn_v, more bits", more_bits),
        Rule(
            "Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M IQ3_M", "Q5_K", "attn_v is small in 70B", lambda p: p.model.is_70b
        ),
        Rule(
            "Q2_K_S IQ3_XXS IQ3_XS IQ3_S",
            "Q5_K",
            "attn_v is small in 70B",
            lambda p: p.model.is_70b and shared_heads(p),
        ),
        Rule("Q2_K Q2_K_S IQ3_XXS IQ3_XS IQ3_S", "Q4_K", "attn_v is small, 4 heads share it", shared_heads),
        Rule("Q2_K", "Q3_K", "attn_v"),
        Rule("IQ3_XXS", "IQ3_S", "attn_v, no importance", no_importance),
        Rule("Q3_K_M", "Q5_K", "attn_v, first two", lambda p: p.index < 2),
        Rule("Q3_K_M IQ3_M", "Q4_K", "attn_v"),
        Rule("Q3_K_L", "Q5_K", "attn_v"),
        Rule("Q4_K_S", "Q5_K", "attn_v, first four", lambda p: p.index < 4),
        Rule("IQ4_NL IQ4_XS", "Q5_K", "attn_v is small, 4 heads share it", shared_heads),
    ),
    Role.ATTN_K: (
        Rule("", "Q8_0", "attn_k is small beside 8 experts", eight_experts),
        Rule("IQ3_XS", "IQ3_XXS", "attn_k bears fewer bits"),
        Rule("IQ3_XXS", "IQ2_S", "attn_k bears fewer bits"),
    ),
    Role.ATTN_Q: (
        Rule("IQ3_XS", "IQ3_XXS", "attn_q bears fewer bits"),
        Rule("IQ3_XXS", "IQ2_S", "attn_q bears fewer bits"),
    ),
    Role.ATTN_OUTPUT: (
        Rule("Q3_K_L", "Q4_K", "attn_output", lambda p: p.model.is_falcon),
        Rule("", None, "", lambda p: p.model.is_falcon),
        Rule(
            "Q2_K Q3_K_S Q3_K_M Q4_K_S Q4_K_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS",
            "Q5_K",
            "attn_output is small beside 8 experts",
            eight_experts,
        ),
        Rule("", None, "", eight_experts),
        Rule("Q2_K", "Q3_K", "attn_output"),
        Rule("Q3_K_M IQ3_M", "Q4_K", "attn_output"),
        Rule("Q3_K_L", "Q5_K", "attn_output"),
        Rule("IQ3_XXS", "IQ3_S", "attn_output"),
    ),
    Role.FFN_GATE: (Rule("IQ3_XS", "IQ3_XXS", "ffn_gate, middle layers bear fewer bits", middle),),
    Role.FFN_UP: (Rule("IQ3_XS", "IQ3_XXS", "ffn_up, middle layers bear fewer bits", middle),),
    Role.FFN_DOWN: (
        Rule("Q2_K", "Q3_K", "ffn_down"),
        Rule("Q2_K_S", "Q4_K", "ffn_down, first eighth", first_eighth),
        Rule("Q3_K_M", "Q5_K", "ffn_down, first sixteenth", first_sixteenth),
        Rule("Q3_K_M", None, "", lambda p: p.model.is_falcon and not more_bits(p)),
        Rule("Q3_K_M", "Q4_K", "ffn_down"),
        Rule("Q3_K_L", "Q4_K", "ffn_down", lambda p: p.model.is_falcon),
        Rule("Q3_K_L", "Q5_K", "ffn_down"),
        Rule("Q4_K_S", "Q5_K", "ffn_down, first eighth", lambda p: first_eighth(p) and not p.model.is_falcon),
        Rule("Q4_K_M", "Q6_K", "ffn_down, first sixteenth", lambda p: first_sixteenth(p) and p.model.is_falcon),
        Rule("Q4_K_M", "Q5_K", "ffn_down, more bits", lambda p: more_bits(p) and p.model.is_falcon),
        Rule("Q4_K_M", "Q6_K", "ffn_down, more bits", lambda p: more_bits(p) and not p.model.is_falcon),
        Rule("Q5_K_M", "Q6_K", "ffn_down, more bits", more_bits),
        Rule("IQ3_XXS", "Q4_K", "ffn_down, no importance", lambda p: first_eighth(p) and no_importance(p)),
        Rule("IQ3_XXS", "Q3_K", "ffn_down, no importance", no_importance),
        Rule("IQ3_M", "Q4_K", "ffn_down, first eighth", first_eighth),
        Rule("IQ3_M", "Q4_K", "ffn_down, more bits", lambda p: eight_experts(p) and more_bits(p)),
        Rule("IQ4_NL IQ4_XS", "Q5_K", "ffn_down, no importance", lambda p: first_eighth(p) and no_importance(p)),
        # with importance the first layers of a format without minimum can go astray; without, old files stay the same
        Rule("Q4_0", "Q4_1", "ffn_down, first eighth", lambda p: first_eighth(p) and p.model.has_importance),
        Rule("Q5_0", "Q5_1", "ffn_down, first eighth", lambda p: first_eighth(p) and p.model.has_importance),
    ),
}

# output.weight, or token_embd where it serves as the output too
OUTPUT_RULES = (
    Rule("MXFP4_MOE", "Q8_0", "output"),
    Rule("", "Q8_0", "output", lambda p: p.model.is_falcon or not p.row_divides),
    Rule(f"{_LOWEST} IQ3_XXS", "Q5_K", "output"),
    Rule("Q8_0", None, ""),
    Rule("", "Q6_K", "output"),
)

MXFP4_RULES = (
    Rule("", "MXFP4", "experts", lambda p: p.is_stack),
    Rule("", "Q8_0", "not an expert"),
)


def mixture(name: str) -> Mixture:
    """The mixture of that name, in any case. Raises UsageError naming what was probably meant, or the known ones."""
    wanted = name.upper()
    wanted = ALIASES.get(wanted, wanted)
    found = next((row for row in MIXTURES if row.name == wanted), None)
    if found is None:
        raise UsageError(unknown("type", name, (row.name for row in MIXTURES)))
    return found


def choose(mix: Mixture, role: Role, place: Place) -> tuple[str, str]:
    """Type name and reason for one tensor."""
    for rule in _rules(mix, role, place.model):
        if rule.mixtures and mix.name not in rule.mixtures.split():
            continue
        if rule.when(place):
            return (rule.type, rule.reason) if rule.type else (mix.default, mix.name)
    return mix.default, mix.name


def _rules(mix: Mixture, role: Role, model: ModelTraits) -> tuple[Rule, ...]:
    if role is Role.OUTPUT or (model.is_tied and role is Role.TOKEN_EMBD):
        return OUTPUT_RULES
    if mix.name == "MXFP4_MOE":
        return MXFP4_RULES
    if mix.name in _LOWEST.split() and role is not Role.TOKEN_EMBD:
        return LOWEST_RULES.get(role, ())
    return RULES.get(role, ())
