"""A GGUF file as a `Model`: the source of a requantization.

Knows which metadata keys hold which hyper-parameter, and which entries belong to the old file alone.
Does not decide what becomes of a tensor.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf

from ggufkit.errors import GgufError
from ggufkit.formats.files import shown
from ggufkit.formats.fingerprint import content_digest
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.model import KV, Hparams, Model, ModelTensor
from ggufkit.formats.tensor import WEIGHT_DTYPES, TensorRef

# What the output says of itself, and so is not taken over. Source: llama-quant.cpp replaces or removes the same.
REPLACED_KEYS = frozenset({
    "general.file_type", "general.quantization_version", "split.no", "split.count", "split.tensors.count",
})  # fmt: skip
SOURCE_DTYPES = ("F32", "F16", "BF16", "Q8_0")  # the last loses little more than F16 did
_MAX_HPARAM = 2**31 - 1


def open_model(path: Path, *, allow_requantize: bool = False) -> Model:
    """A model from an F32, F16, BF16 or Q8_0 GGUF; other types only with `allow_requantize`. Raises GgufError."""
    source = GgufFile.open(path)
    if not source.tensors:
        raise GgufError(f"{path} has no tensors (is it a vocabulary only?). Pass the model itself.")
    return Model(
        hparams=read_hparams(source),
        metadata=tuple(kv for kv in source.metadata.values() if kv.key not in REPLACED_KEYS),
        tensors=tuple(_model_tensor(ref, path, allow_requantize) for ref in source.tensors),
        source={"kind": "gguf", "fingerprint": fingerprint(source)},
        notes=source.notes,
    )


def fingerprint(source: GgufFile) -> str:
    """Hex digest of sizes, headers and a sample of the weights; changes with the content, not with the place."""
    digest = hashlib.sha256()
    for part in source.parts:
        digest.update(content_digest(part.file, part.data_offset, part.nbytes))
    return digest.hexdigest()


def read_hparams(source: GgufFile) -> Hparams:
    """Hyper-parameters of a file. Raises GgufError."""
    return hparams_of(str(source.path), source.metadata)


def hparams_of(where: str, metadata: Mapping[str, KV]) -> Hparams:
    """Hyper-parameters from the keys that begin with the architecture's name. Raises GgufError that begins `where`."""
    named = metadata.get("general.architecture")
    if named is None or not isinstance(named.value, str) or not named.value:
        raise GgufError(f"{where}: general.architecture is missing: it does not hold a model. Pass one that does.")
    arch = named.value

    def number(name: str, default: int | None = None) -> int:
        return _hparam(where, metadata, f"{arch}.{name}", default)

    n_embd, n_head = number("embedding_length"), number("attention.head_count")
    head_dim = n_embd // n_head if n_head else 0
    tokens = metadata.get("tokenizer.ggml.tokens")
    n_tokens = len(tokens.value) if tokens is not None and tokens.type is gguf.GGUFValueType.ARRAY else 0
    return Hparams(
        arch=arch,
        n_layer=number("block_count"),
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=number("attention.head_count_kv", n_head),
        n_expert=number("expert_count", 0),
        n_expert_used=number("expert_used_count", 0),
        n_ctx_train=number("context_length", 0),
        n_vocab=number("vocab_size", n_tokens),
        head_dim_k=number("attention.key_length", head_dim),
        head_dim_v=number("attention.value_length", head_dim),
        n_mtp=number("nextn_predict_layers", 0),
    )


def _hparam(where: str, metadata: Mapping[str, KV], key: str, default: int | None) -> int:
    """A whole number; of an array with one value a layer, the largest."""
    kv = metadata.get(key)
    if kv is None:
        if default is None:
            raise GgufError(f"{where}: {shown(key)} is missing, so the file cannot be a whole model.")
        return default
    values: list[Any] = list(kv.value) if kv.type is gguf.GGUFValueType.ARRAY else [kv.value]
    if not values or not all(type(v) is int and 0 <= v <= _MAX_HPARAM for v in values):
        raise GgufError(f"{where}: {shown(key)} is {shown(str(values))}, wanted whole numbers from 0 to {_MAX_HPARAM}.")
    return int(max(values))


def _model_tensor(ref: TensorRef, path: Path, allow_requantize: bool) -> ModelTensor:
    if not 1 <= len(ref.shape) <= 3 or 0 in ref.shape:
        raise GgufError(
            f"{path}: tensor {shown(ref.name)} has shape {list(ref.shape)}; weights have 1 to 3 dimensions."
        )
    if ref.dtype not in WEIGHT_DTYPES:
        raise GgufError(
            f"{path}: tensor {shown(ref.name)} is stored as {ref.dtype}, which is not a type for weights. "
            "Use the model's F16, BF16 or Q8_0 file."
        )
    if ref.dtype not in SOURCE_DTYPES and not allow_requantize:
        raise GgufError(
            f"{path}: tensor {shown(ref.name)} is {ref.dtype} already; encoding it again adds a second loss. "
            "Start from the F16, BF16 or Q8_0 file, or pass --allow-requantize."
        )
    keep_f32 = len(ref.shape) == 1 and ref.dtype == "F32"
    return ModelTensor(ref.name, ref.shape, ref.dtype, (ref,), keep_f32=keep_f32)
