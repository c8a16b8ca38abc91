"""Source tensors → GGUF tensors: names, bends, stacked experts. Headers only; no weight is read.

Knows how a name is mapped and what must be there. Does not know families: a `Family` says which tensors it has and
what becomes of them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import gguf

from ggufkit.architectures.bends import model_tensor
from ggufkit.architectures.config import Config
from ggufkit.architectures.experts import Stacker, Stacks, check_layer, check_shape
from ggufkit.architectures.family import Family
from ggufkit.errors import CheckpointError
from ggufkit.formats.model import ModelTensor
from ggufkit.formats.packed import PackedRef
from ggufkit.formats.tensor import TensorRef

FLOATS = ("F32", "F16", "BF16", "F64")
DROPPED = {
    ".attention.masked_bias": "a constant of the attention mask",
    ".attention.bias": "a constant of the attention mask",
    ".rotary_emb.inv_freq": "llama.cpp computes the RoPE frequencies itself",
    ".rotary_emb.cos_cached": "llama.cpp computes the RoPE frequencies itself",
    ".rotary_emb.sin_cached": "llama.cpp computes the RoPE frequencies itself",
    ".position_ids": "the numbers 0, 1, 2, …",
    ".num_batches_tracked": "a counter of the training",
}
RENAMES = {
    r"^(model\.)?language_model\.(model\.)?": "model.",
    r"^model\.lm_head\.": "lm_head.",
    r"^(model\.)?text_model\.(model\.)?": "model.",  # inside of a wrapper: Idefics, SmolVLM
    r"^(layers|embed_tokens|norm)\.": r"model.\1.",  # saved without the class that has the head
    r"e_score_correction_bias$": "e_score_correction.bias",
}
_PARTS = {  # Source: TextModel.filter_tensors, Ernie4_5MoeModel.filter_tensors
    re.compile(
        r"(^|\.)(visual|vision_model|vision_tower|audio_tower|audio_model|multi_modal_projector|mm_projector|embed_vision|embed_audio"
        r"|connector|mm_projector|resampler)\.|(^|\.)image_newline$"
    ): "what sees or hears: the language model alone is converted",
    re.compile(r"^(model\.)?(score|classifier|qa_outputs|v_head|value_head|reward_head)\."): (
        "a head that predicts no tokens"
    ),
    re.compile(r"^model\.mtp_(block|emb_norm|hidden_norm|linear_proj)\.\d"): (
        "the block that guesses further tokens: llama.cpp does not run it for this family"
    ),
}

_GUESSES = {re.compile(r"^mtp\."): "the block that guesses further tokens: not converted for this family"}


def map_tensors(
    family: Family, config: Config, refs: Iterable[TensorRef], *, mtp: bool = True
) -> tuple[tuple[ModelTensor, ...], dict[str, str]]:
    """GGUF tensors in the converter's order, and what was dropped with its reason.

    Computed tensors come first, then shards in the order of their names and tensors in the order of theirs; experts
    come where the last of their layer stood. Raises CheckpointError that names what is left over, absent, of another
    shape or not a float.
    """
    refs = sorted(refs, key=lambda ref: (ref.file.path.name, ref.name))
    made, dropped = mapped(family, config, refs, mtp=mtp)
    tensors = [*(family.computed(config) if family.computed else ()), *made]
    _check_all(family, config, tensors)
    return tuple(tensors), dropped


def mapped(
    family: Family, config: Config, refs: Sequence[TensorRef], *, mtp: bool = True
) -> tuple[list[ModelTensor], dict[str, str]]:
    """The GGUF tensors that `refs` make, in their order, whatever is absent; and what was dropped."""
    config.n_mtp = n_mtp(family, config, (ref.name for ref in refs)) if mtp else 0
    stacker = Stacker(family, family.experts, config) if family.experts else None
    stacks = Stacks(family, config)
    names = gguf.get_tensor_name_map(family.arch, family.n_layer(config))
    tensors: list[ModelTensor] = []
    dropped: dict[str, str] = {}
    for ref in refs:
        name = renamed(family, config, ref.name)
        if reason := _dropped(family, config, name):
            dropped[ref.name] = reason
            continue
        _check_float(ref, config)
        made = stacker.take(ref, name) if stacker else None
        if made is None:
            made = stacks.take(ref, name)
        if made is None:
            made = _split(family, config, ref, name)
        if made is None:
            made = [_single(family, config, names, ref, name)]
        tensors += [_finished(family, config, ref, tensor) for tensor in made]
    if stacker:
        stacker.check_complete()
    return tensors, dropped


def n_mtp(family: Family, config: Config, names: Iterable[str]) -> int:
    """Blocks that guess further tokens, counted by their tensors: many fine-tunes have lost them, whatever they say."""
    if family.mtp is None:
        return 0
    names = (renamed(family, config, name) for name in names)
    n_layer = config.integer("num_hidden_layers")
    layers = [int(match[1]) for name in names if (match := re.match(r"model\.layers\.(\d{1,5})\.", name))]
    return max(0, max(layers, default=0) + 1 - n_layer)


def renamed(family: Family, config: Config, name: str) -> str:
    for pattern, text in {**RENAMES, **family.renames}.items():
        name = re.sub(pattern, text, name)
    match = re.match(r"(?:model\.)?mtp\.(?:layers\.(\d{1,5})|(\w+))\.", name) if family.mtp else None
    if match is None or not family.mtp or (match[2] and match[2] not in family.mtp):
        return name
    layer = config.integer("num_hidden_layers") + int(match[1] or 0)
    inside = f"{family.mtp[match[2]]}." if match[2] else ""
    return f"model.layers.{layer}.{inside}{name[match.end() :]}"


def _dropped(family: Family, config: Config, name: str) -> str | None:
    """Why a tensor is left out, or None where it belongs into the file."""
    if reason := next((why for end, why in DROPPED.items() if name.endswith(end)), None):
        return reason
    parts = _PARTS if family.mtp is not None else _PARTS | _GUESSES
    if reason := next((why for pattern, why in parts.items() if pattern.search(name)), None):
        return reason
    if name == "lm_head.weight" and "output.weight" not in family.whole:
        return "the family's embeddings make the logits"
    layer = re.match(r"model\.layers\.(\d{1,5})\.", name)
    if family.mtp is not None and not config.n_mtp and layer and int(layer[1]) >= config.n_layer:
        return "the block that guesses further tokens: left out as asked"
    if family.beyond and layer and int(layer[1]) >= family.n_layer(config):
        return family.beyond
    return None


def _check_float(ref: TensorRef, config: Config) -> None:
    """What the tensors are decides: a quantization_config may be left over from the training of plain floats."""
    if ref.dtype in FLOATS or isinstance(ref, PackedRef):
        return
    declared = config.get("quantization_config")
    method = declared.get("quant_method") if isinstance(declared, dict) else None
    said = f" (config.json says {method!r:.40})" if method else ""
    raise CheckpointError(
        f"{ref.file.path}: {ref.name} is {ref.dtype}, wanted {', '.join(FLOATS)}{said}. "
        "Is the checkpoint quantized already? Use the original weights."
    )


def _split(family: Family, config: Config, ref: TensorRef, name: str) -> list[ModelTensor] | None:
    """The tensors of a layer that `ref` makes by one of the family's splits; None where it has none for that name."""
    match = re.fullmatch(r"model\.layers\.(\d{1,5})\.(.+)", name)
    split = family.splits.get(match[2].removesuffix(".weight")) if match else None
    if match is None or split is None:
        return None
    check_layer(ref, int(match[1]), family.n_layer(config))
    return [replace(tensor, name=f"blk.{match[1]}.{tensor.name}") for tensor in split(config, ref)]


def _single(family: Family, config: Config, names: gguf.TensorNameMap, ref: TensorRef, name: str) -> ModelTensor:
    mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if mapped is None:
        raise _no_place(family, config, ref)
    return model_tensor(mapped, ref.shape, [ref])


def _finished(family: Family, config: Config, ref: TensorRef, tensor: ModelTensor) -> ModelTensor:
    """The tensor bent and checked against what config.json promises."""
    wanted = family.shape_of(config, tensor.name)
    if wanted is None:
        raise _no_place(family, config, ref)
    bent = family.bent(config, tensor)
    check_shape(ref, bent.shape, wanted)
    return bent


def _no_place(family: Family, config: Config, ref: TensorRef) -> CheckpointError:
    return CheckpointError(
        f"{ref.file.path}: {ref.name} has no place in a {family.arch_name} file of "
        f"{family.n_layer(config)} layers. Is config.json the one of these weights?"
    )


def _check_all(family: Family, config: Config, tensors: list[ModelTensor]) -> None:
    """Every tensor once, none of the required absent."""
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            raise CheckpointError(f"{config.folder}: two source tensors make {tensor.name}. Remove one of them.")
        names.add(tensor.name)
    if "output.weight" in names and config.get("tie_word_embeddings") is True:
        config.notes.append("lm_head.weight is stored although config.json ties it to the embeddings; both are kept")
    missing = [name for name in family.required(config) if name not in names]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{config.folder}: no tensor of the source gives {missing[0]}{more}. Is a shard missing, or config.json of "
            "another model?"
        )
