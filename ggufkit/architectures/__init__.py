"""Checkpoint → `Model`: what a Hugging Face folder is in GGUF's words. Headers and JSON only; no weight is loaded.

Knows how a model is put together from its parts. The families are a table in `families`.
Reference behaviour: llama.cpp's convert_hf_to_gguf.py at 0c1e57098; where we differ on purpose, the reason stands at
the place and in tests/architectures/test_reference.py.
"""

import hashlib
from collections.abc import Iterable, Sequence

from gguf import GGML_QUANT_VERSION, GGUFValueType, Keys

from ggufkit.architectures.adapter import resized
from ggufkit.architectures.arithmetic import check_arithmetic
from ggufkit.architectures.config import Config, check_sizes
from ggufkit.architectures.families import FAMILIES
from ggufkit.architectures.family import Family
from ggufkit.architectures.find import find_family
from ggufkit.architectures.mistral import is_own, own, told
from ggufkit.architectures.naming import general_metadata
from ggufkit.architectures.outline import outlined
from ggufkit.architectures.tensors import map_tensors
from ggufkit.architectures.vocabulary import vocabulary_metadata
from ggufkit.errors import CheckpointError
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.formats.gguf_source import hparams_of
from ggufkit.formats.lora import Adapter, merged
from ggufkit.formats.model import KV, Model, ModelTensor
from ggufkit.formats.packed import unpack

__all__ = ["FAMILIES", "Family", "convert", "find_family"]

MAX_NOTES = 20  # a stranger's file may give cause for a hundred thousand
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "MXFP4": 38}  # llama_ftype


def convert(
    checkpoint: Checkpoint,
    *,
    name: str | None = None,
    mtp: bool = True,
    requantize: bool = False,
    adapters: Sequence[Adapter] = (),
) -> Model:
    """The GGUF model that `checkpoint` is: metadata and tensors in the order of llama.cpp's converter.

    name        for general.name, instead of the one guessed from the folder's name and the model card
    mtp         keep the block that guesses further tokens, where there is one
    adapters    PEFT adapters to add to the weights, one after the other
    requantize  decode MXFP4 weights like any others; otherwise they are taken over as they are

    A checkpoint without shards gives a model whose rows cannot be read: enough for a plan.

    general.file_type is that of the weights as they are; a plan replaces it with its own. Raises CheckpointError and
    TokenizerError.
    """
    checkpoint = told(checkpoint)
    family = find_family(checkpoint)
    if is_own(checkpoint):
        if adapters:
            raise CheckpointError(
                f"{adapters[0].path}: an adapter is made for transformers' order of rows, which "
                f"{checkpoint.path} does not have. Use the folder with config.json and model.safetensors."
            )
        family = own(family)
    checkpoint, tokenizer = resized(checkpoint, adapters)
    config = Config(checkpoint.path, checkpoint.config, family.defaults, checkpoint.notes, checkpoint.config_name)
    check_sizes(config)
    stated = config.get("quantization_config")
    refs, lines = unpack(checkpoint.tensors, stated if isinstance(stated, dict) else {}, keep=not requantize)
    for adapter in adapters if refs else ():
        refs = list(merged({ref.name: ref for ref in refs}, adapter).values())
    if checkpoint.shards:
        tensors, dropped = map_tensors(family, config, refs, mtp=mtp)
    else:
        tensors, dropped = outlined(family, config, checkpoint.listed, mtp=mtp), {}
        lines = [f"{checkpoint.path.name} holds no weights: its tensors are those that config.json promises"]
    arch = family.arch_name
    entries: list[KV] = [KV(Keys.General.ARCHITECTURE, GGUFValueType.STRING, arch)]
    entries += [kv for rule in family.before for kv in rule(config, arch)]
    entries += general_metadata(checkpoint, arch, tensors, name=name)
    entries += [kv for rule in family.rules for kv in rule(config, arch)]
    entries.append(KV(Keys.General.QUANTIZATION_VERSION, GGUFValueType.UINT32, GGML_QUANT_VERSION))
    entries += vocabulary_metadata(family, config, tokenizer)
    entries += [kv for rule in family.roles for kv in rule(config, arch)]
    last = {kv.key: kv for rule in family.after for kv in rule(config, arch)}
    entries = [kv for kv in entries if kv.key not in last] + list(last.values())
    check_arithmetic(family, config, tensors)
    metadata = _resolve(entries, tensors)
    return Model(
        hparams=hparams_of(str(checkpoint.path), {kv.key: kv for kv in metadata}),
        metadata=metadata,
        tensors=tensors,
        source={"kind": "safetensors", "fingerprint": _fingerprint(checkpoint, adapters)},
        dropped=dropped,
        notes=_few([*checkpoint.notes, *lines]),
    )


def _few(notes: Iterable[str]) -> tuple[str, ...]:
    """Each note once, and of a flood the first."""
    found = list(dict.fromkeys(notes))
    more = (f"and {len(found) - MAX_NOTES} notes more",) if len(found) > MAX_NOTES else ()
    return (*found[:MAX_NOTES], *more)


def _fingerprint(checkpoint: Checkpoint, adapters: Sequence[Adapter]) -> str:
    own = checkpoint.fingerprint()
    if not adapters:
        return own
    return hashlib.sha256(" ".join([own, *(adapter.fingerprint() for adapter in adapters)]).encode()).hexdigest()


def _resolve(entries: Iterable[KV], tensors: Iterable[ModelTensor]) -> tuple[KV, ...]:
    """Each key once: a later value takes the place of the earlier. general.file_type: MXFP4, or of the first matrix."""
    resolved = {kv.key: kv for kv in entries}
    dtypes = [t.dtype for t in tensors if len(t.shape) > 1]
    dtype = "MXFP4" if "MXFP4" in dtypes else next(iter(dtypes), "F32")
    resolved[Keys.General.FILE_TYPE] = KV(Keys.General.FILE_TYPE, GGUFValueType.UINT32, FILE_TYPES[dtype])
    return tuple(resolved.values())
