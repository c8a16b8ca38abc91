"""From a model and a recipe to a `QuantPlan`: types, reasons, metadata, offsets. Reads no weights.

Knows how the tables, the fallbacks and the recipe's rules come together, and the order in which llama.cpp writes.
Does not know how rows are encoded or written.
"""

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

from gguf import GGML_QUANT_VERSION, GGUF_DEFAULT_ALIGNMENT, GGUFValueType

from ggufkit.errors import RecipeError, UsageError
from ggufkit.formats.gguf_writer import TensorRow, header_bytes, packed
from ggufkit.formats.model import KV, Hparams, Model, ModelTensor
from ggufkit.recipes.fallback import fitting
from ggufkit.recipes.mixtures import Mixture, ModelTraits, Place, choose, mixture
from ggufkit.recipes.plan import PlannedTensor, QuantPlan
from ggufkit.recipes.quantizable import Role, kept_reason, layer_of, n_dims, role_of, written_order
from ggufkit.recipes.recipe import Recipe, check_rules_match, named
from quant import QuantType, quant_type

FILE_TYPE = "general.file_type"
QUANTIZATION_VERSION = "general.quantization_version"

# Types whose scales are searched for so few levels that without importance the result is of no use.
# Source: llama-quant.cpp tensor_requires_imatrix.
_USELESS_WITHOUT_IMPORTANCE = ("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S")

# Layers of the models that llama.cpp calls 70B, by architecture. Source: load_arch_hparams of each.
_LAYERS_OF_70B = {"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}


class Choice(NamedTuple):
    """Type and reason of a tensor; `wanted` is the type it would have if its rows divided into that one's blocks."""

    qtype: QuantType
    reason: str
    wanted: str = ""


def make_plan(
    model: Model,
    recipe: Recipe | str,
    *,
    importance: Container[str] | None = None,
    extra_metadata: Sequence[KV] = (),
) -> QuantPlan:
    """Everything that will be written, before the first byte is.

    recipe          a Recipe, or the name of a mixture
    importance      names of the tensors that have importance; None where there is none at all
    extra_metadata  entries to add behind the model's own

    Raises UsageError for an unknown name and for types that need importance when there is none, RecipeError for
    rules that match nothing or do not fit.
    """
    recipe = named(recipe) if isinstance(recipe, str) else recipe
    tensors = written_order(model.tensors)
    choices = choose_types(tensors, model.hparams, recipe, has_importance=importance is not None)
    choices = _with_mtp_pinned(tensors, choices, model.hparams, recipe, importance)
    _require_importance(tensors, choices, recipe, importance)
    metadata = tuple(map(packed, _metadata(model, recipe.file_type, extra_metadata)))
    alignment = int(model.kv("general.alignment") or GGUF_DEFAULT_ALIGNMENT)
    planned = _placed(tensors, choices, alignment)
    return QuantPlan(
        name=recipe.name,
        file_type=recipe.file_type,
        metadata=metadata,
        tensors=planned,
        alignment=alignment,
        data_offset=len(header_bytes(metadata, tensor_rows(planned), alignment)),
    )


def tensor_rows(planned: Sequence[PlannedTensor]) -> list[TensorRow]:
    """Rows of the header. Leading axes of length 1 are left out, as ggml writes them."""
    return [(t.name, t.tensor.shape[-n_dims(t.tensor.shape) :], t.qtype.ggml_type, t.offset) for t in planned]


def choose_types(
    tensors: Sequence[ModelTensor], hparams: Hparams, recipe: Recipe, *, has_importance: bool
) -> list[Choice]:
    """Type and reason of each tensor; `tensors` in written order, which is the order that the mixtures count in."""
    kept = [_kept(tensor) for tensor in tensors]
    check_rules_match(
        recipe,
        [tensor.name for tensor, choice in zip(tensors, kept, strict=True) if choice is None],
        [tensor.name for tensor, choice in zip(tensors, kept, strict=True) if choice is not None],
    )
    free = [tensor for tensor, choice in zip(tensors, kept, strict=True) if choice is None]
    chosen = iter(_choose_free(free, _facts(tensors, hparams, has_importance), recipe))
    return [choice if choice is not None else next(chosen) for choice in kept]


def _kept(tensor: ModelTensor) -> Choice | None:
    """Type and reason of a tensor that is stored as it came; None where it may be quantized."""
    reason = kept_reason(tensor)
    if tensor.keep_f32:
        return Choice(quant_type("F32"), reason or "always F32")
    return Choice(quant_type(tensor.dtype), reason) if reason else None


def _choose_free(free: Sequence[ModelTensor], facts: ModelTraits, recipe: Recipe) -> Iterable[Choice]:
    seen: Counter[Role] = Counter()
    for tensor in free:
        role = role_of(tensor.name)
        rule = recipe.deciding(tensor.name)
        if rule is not None:
            yield _by_rule(tensor, quant_type(rule.type), rule.reason or f"recipe {recipe.name}")
        elif recipe.default:
            yield _fitted(tensor, recipe.default, recipe.name)
        else:
            yield _by_mixture(tensor, role, seen[role], mixture(recipe.base), facts)
        seen[role] += 1


def _with_mtp_pinned(
    tensors: Sequence[ModelTensor],
    choices: Sequence[Choice],
    hparams: Hparams,
    recipe: Recipe,
    importance: Container[str] | None,
) -> list[Choice]:
    """Blocks that guess further tokens run for no calibration text: without importance they get Q5_K or finer."""
    least, first = quant_type("Q5_K"), hparams.n_layer - hparams.n_mtp
    reason = "guesses further tokens, without importance: Q5_K at least"

    def pinned(tensor: ModelTensor, qtype: QuantType) -> bool:
        known = importance is not None and tensor.name in importance
        coarse = qtype.is_quantized and qtype.bpw < least.bpw
        return layer_of(tensor.name) >= first and coarse and not known and recipe.deciding(tensor.name) is None

    if not hparams.n_mtp:
        return list(choices)
    return [
        _fitted(tensor, least.name, reason) if pinned(tensor, choice[0]) else choice
        for tensor, choice in zip(tensors, choices, strict=True)
    ]


def _by_mixture(tensor: ModelTensor, role: Role, rank: int, mix: Mixture, facts: ModelTraits) -> Choice:
    default = quant_type(mix.default)
    if not default.is_quantized:
        return Choice(default, mix.name)
    # the stacks of experts are not always one a layer, so with experts the layer is read from the name
    by_layer = role is not Role.ATTN_V and facts.n_expert > 1
    place = Place(
        index=layer_of(tensor.name) if by_layer else rank,
        count=facts.n_attn_v if role is Role.ATTN_V else facts.n_layer,
        rank=rank,
        is_stack=len(tensor.shape) == 3 and tensor.shape[0] > 1,
        row_divides=tensor.n_per_row % default.block_size == 0,
        model=facts,
    )
    return _fitted(tensor, *choose(mix, role, place))


def _facts(tensors: Sequence[ModelTensor], hparams: Hparams, has_importance: bool) -> ModelTraits:
    names = [tensor.name for tensor in tensors]
    return ModelTraits(
        n_layer=hparams.n_layer,
        n_attn_v=sum(role_of(name) is Role.ATTN_V for name in names),
        n_gqa=hparams.n_gqa,
        n_expert=hparams.n_expert,
        is_tied="output.weight" not in names,
        is_falcon=hparams.arch == "falcon",
        is_70b=_is_70b(hparams),
        has_importance=has_importance,
    )


def _is_70b(hparams: Hparams) -> bool:
    if hparams.arch == "llama" and (hparams.n_head == hparams.n_head_kv or hparams.n_expert == 8):
        return False
    return _LAYERS_OF_70B.get(hparams.arch) == hparams.n_layer


def _fitted(tensor: ModelTensor, wanted: str, reason: str) -> Choice:
    qtype, fallback = fitting(quant_type(wanted), tensor.n_per_row)
    return Choice(qtype, fallback or reason, wanted if fallback else "")


def _by_rule(tensor: ModelTensor, wanted: QuantType, reason: str) -> Choice:
    substitute, fallback = fitting(wanted, tensor.n_per_row)
    if fallback:
        raise RecipeError(
            f"{tensor.name} has {tensor.n_per_row} columns; {wanted} needs a multiple of {wanted.block_size}. "
            f"Use {substitute} for it in the recipe."
        )
    return Choice(wanted, reason)


def _require_importance(
    tensors: Sequence[ModelTensor], choices: Sequence[Choice], recipe: Recipe, importance: Container[str] | None
) -> None:
    missing = [
        f"{tensor.name} ({qtype})"
        for tensor, (qtype, _, _) in zip(tensors, choices, strict=True)
        if tensor.dtype != qtype.name
        and _needs_importance(tensor.name, qtype, recipe)
        and (importance is None or tensor.name not in importance)
    ]
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        what = (
            "Pass --imatrix FILE"
            if importance is None
            else "The importance file has no entry for them; calibrate again"
        )
        raise UsageError(f"{recipe.name} needs importance for {shown}. {what}, or choose a larger type.")


def _needs_importance(name: str, qtype: QuantType, recipe: Recipe) -> bool:
    if qtype.requires_importance:
        return True
    if role_of(name) in (Role.TOKEN_EMBD, Role.OUTPUT):
        return False
    return qtype.name in _USELESS_WITHOUT_IMPORTANCE or (qtype.name == "Q2_K" and recipe.base == "Q2_K_S")


def _metadata(model: Model, file_type: int, extra: Sequence[KV]) -> tuple[KV, ...]:
    """The model's entries without those of a split file, then the two that llama_model_quantize sets, then `extra`.

    What an earlier quantization said of itself goes where this one says something.
    """
    own = (
        KV(QUANTIZATION_VERSION, GGUFValueType.UINT32, GGML_QUANT_VERSION),
        KV(FILE_TYPE, GGUFValueType.UINT32, file_type),
        *extra,
    )
    replaced = {kv.key for kv in own}
    stale = ("split.", "ggufkit.", "quantize.imatrix.") if extra else ("split.",)
    return tuple(kv for kv in model.metadata if kv.key not in replaced and not kv.key.startswith(stale)) + own


def _placed(tensors: Sequence[ModelTensor], choices: Sequence[Choice], alignment: int) -> tuple[PlannedTensor, ...]:
    planned = []
    offset = 0
    for tensor, choice in zip(tensors, choices, strict=True):
        qtype = choice.qtype
        nbytes = tensor.n_weights // tensor.n_per_row * qtype.row_nbytes(tensor.n_per_row)
        planned.append(PlannedTensor(tensor, qtype, offset, nbytes, choice.reason, choice.wanted))
        offset = _padded(offset + nbytes, alignment)
    return tuple(planned)


def _padded(nbytes: int, alignment: int) -> int:
    return -(-nbytes // alignment) * alignment
