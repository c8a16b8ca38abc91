"""LoRA adapters as GGUF files: checked against the model's header, loaded, and switched on for a context.

Knows what llama.cpp asserts of an adapter instead of saying it (src/llama-adapter.cpp, build_lora_mm). Does not know
PEFT's folders: `ggufkit convert-lora` makes files of them.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gguf import GGUFValueType

from ggufkit.errors import GgufError, UsageError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.tensor import WEIGHT_DTYPES, TensorRef
from ggufkit.runtime import library

Adapters = Sequence[tuple[Path, float]]  # files, and how strongly each is added
_ENDS = (".lora_a", ".lora_b")


def require_fitting(adapters: Adapters, model: GgufFile) -> None:
    """Raise GgufError for a file that is no adapter of this model, UsageError for a file that is named twice."""
    paths = [Path(path).resolve() for path, _ in adapters]
    for path in paths:
        if paths.count(path) > 1:
            raise UsageError(f"{path.name} is given twice. Add it once, as strongly as you want: {path.name}=2.")
    for path, _ in adapters:
        if (Path(path) / "adapter_config.json").is_file():
            raise UsageError(
                f"{path} is a PEFT adapter's folder. Write it as a GGUF first: ggufkit convert-lora {path}"
            )
        header = GgufFile.open(Path(path))
        header.close()
        for problem in _problems(header, model):
            raise GgufError(f"{path}: {problem}.")


def load_adapters(lib: ModuleType, model: Any, adapters: Adapters) -> list[Any]:
    """llama_adapter_lora pointers; they live as long as the model. Must come before its contexts are made."""
    out = []
    for path, _ in adapters:
        handle = lib.llama_adapter_lora_init(model, os.fsencode(path))
        if not handle:
            raise library.engine_error(f"{path}: llama.cpp does not load this adapter.")
        out.append(handle)
    return out


def switch_on(lib: ModuleType, ctx: Any, handles: Sequence[Any], adapters: Adapters) -> None:
    """Let every decode of the context add them."""
    if not handles:
        return
    pointers = (lib.llama_adapter_lora_p_ctypes * len(handles))(
        *(ctypes.cast(handle, lib.llama_adapter_lora_p_ctypes) for handle in handles)
    )
    scales = (ctypes.c_float * len(handles))(*(factor for _, factor in adapters))
    if lib.llama_set_adapters_lora(ctx, pointers, len(handles), scales):
        raise library.engine_error("llama.cpp does not take the adapters.")


def _problems(header: GgufFile, model: GgufFile) -> Iterator[str]:
    kind, sort = header.value("general.type"), header.value("adapter.type")
    if kind != "adapter" or sort != "lora":
        yield f"is no LoRA adapter (general.type {kind!r:.40}). Make one with ggufkit convert-lora"
        return
    arch, wanted = header.value("general.architecture"), model.value("general.architecture")
    if arch != wanted:
        yield f"is an adapter of {arch!r:.40} models, {model.path.name} is {wanted!r:.40}"
    alpha = header.metadata.get("adapter.lora.alpha")
    if alpha is not None and alpha.type is not GGUFValueType.FLOAT32:
        yield f"adapter.lora.alpha is {alpha.type.name}, wanted FLOAT32"
    own = {tensor.name: tensor for tensor in header.tensors}
    stored = {tensor.name: tensor for tensor in model.tensors}
    for name, tensor in own.items():
        base, end = name[:-7], name[-7:]
        if end not in _ENDS:
            if not name.endswith("_norm.weight"):  # which llama.cpp passes over
                yield f"{name} is no part of an adapter"
        elif tensor.dtype not in WEIGHT_DTYPES:
            yield f"{name} is {tensor.dtype}, which nothing can be multiplied with"
        elif base not in stored:
            yield f"{base} is no tensor of {model.path.name}. Is it an adapter of another model?"
        elif any(base + each not in own for each in _ENDS):
            yield f"{base} has one of its two matrices"
        elif not _fits(own[base + _ENDS[0]], own[base + _ENDS[1]], stored[base]):
            yield f"{name} has shape {list(tensor.shape)}, {base} {list(stored[base].shape)}. Another model's adapter?"
        elif base == "token_embd.weight" and "output.weight" not in stored:
            yield f"changes embeddings that make {model.path.name}'s logits, too. Merge it: ggufkit quantize --lora"


def _fits(a: TensorRef, b: TensorRef, base: TensorRef) -> bool:
    """A (…, rank, n_per_row) and B (…, n_rows, rank); of embeddings A is turned."""
    if len(a.shape) < 2 or len(b.shape) != len(a.shape):
        return False
    if base.name == "token_embd.weight":
        return a.shape[-1] == b.shape[-1] and (a.shape[0], b.shape[0]) == base.shape
    return a.shape[-2] == b.shape[-1] and (*b.shape[:-1], a.shape[-1]) == base.shape and a.shape[:-2] == base.shape[:-2]
