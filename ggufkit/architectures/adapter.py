"""A PEFT adapter in GGUF's words: the two thin matrices of every weight, bent as the weight itself is bent.

Rows of a weight are rows of B, its columns are columns of A, so an order of either moves to one of them. Reference:
llama.cpp's convert_lora_to_gguf.py at 0c1e57098; where we differ on purpose, the reason stands at the place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
from gguf import GGML_QUANT_VERSION, GGUFValueType, Keys

from ggufkit.architectures.config import Config
from ggufkit.architectures.family import Family
from ggufkit.architectures.naming import general_metadata
from ggufkit.architectures.tensors import mapped
from ggufkit.errors import CheckpointError
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.formats.lora import Adapter, Thin, canonical
from ggufkit.formats.model import KV, ModelTensor
from ggufkit.formats.tensor import F32Array, TensorRef

EMBEDDINGS, HEAD = "token_embd.weight", "output.weight"


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """What an adapter's GGUF holds: entries, and name → float32 array in order."""

    metadata: tuple[KV, ...]
    tensors: dict[str, F32Array]


def as_gguf(adapter: Adapter, family: Family, base: Checkpoint, notes: list[str]) -> AdapterFile:
    """The adapter for a model of `family` that `base`'s config.json describes. Raises CheckpointError.

    llama.cpp multiplies with alpha / rank. Where an adapter scales otherwise (rsLoRA, patterns of alphas), its own
    scale goes into alpha, or into B where weights differ; the converter drops it.
    """
    _require_thin(adapter)
    config = Config(base.path, base.config, family.defaults, notes)
    thin = {_name_of(module): adapter.thin(module) for module in adapter.modules}
    refs = [TensorRef(name, each.shape, "F32", adapter.file.file, 0, 4 * each.n_weights) for name, each in thin.items()]
    tensors, dropped = mapped(family, config, refs)
    if dropped:
        name, reason = next(iter(dropped.items()))
        raise CheckpointError(f"{adapter.path}: {name} has no place in a GGUF of this model: {reason}.")
    alpha, factors = _alpha(adapter, thin)
    out: dict[str, F32Array] = {}
    for tensor in tensors:
        a, b = _thin_of(tensor, thin, factors, adapter.path)
        if tensor.name in (EMBEDDINGS, HEAD):
            _require_head(tensor.name, family, config, adapter.path)
        if tensor.name == EMBEDDINGS:
            a = np.ascontiguousarray(a.T)  # llama.cpp reads its rows by token
        out[f"{tensor.name}.lora_a"], out[f"{tensor.name}.lora_b"] = a, b
    n_weights = -sum(array.size for array in out.values())  # less than nothing: how gguf-py tells an adapter
    return AdapterFile(tuple(_metadata(adapter, family.arch_name, alpha, n_weights, notes)), out)


def resized(checkpoint: Checkpoint, adapters: Sequence[Adapter]) -> tuple[Checkpoint, Path]:
    """The checkpoint with as many tokens as the adapters' embeddings have rows, and where its tokenizer's files lie."""
    folder = checkpoint.path
    for adapter in adapters:
        if (n_vocab := adapter.n_vocab) is None:
            continue
        text = checkpoint.config.get("text_config")
        before = (text if isinstance(text, dict) else {}).get("vocab_size") or checkpoint.config.get("vocab_size")
        if n_vocab == before:
            continue
        inner = {"text_config": {**text, "vocab_size": n_vocab}} if isinstance(text, dict) else {}
        checkpoint = replace(checkpoint, config={**checkpoint.config, "vocab_size": n_vocab, **inner})
        folder = adapter.path if adapter.has_tokenizer else folder
        where = "its own tokenizer" if adapter.has_tokenizer else "no tokenizer of its own: new rows have no tokens"
        checkpoint.notes.append(
            f"{adapter.path.name} has {n_vocab} rows of embeddings instead of {before}, and {where}"
        )
    return checkpoint, folder


def _require_thin(adapter: Adapter) -> None:
    for name in (*adapter.tokens, *(adapter.replaced.keys() - adapter.bases)):
        raise CheckpointError(
            f"{adapter.path}: {name} is saved whole (modules_to_save, trained tokens, resized embeddings), which an "
            "adapter of llama.cpp cannot hold. Merge it: ggufkit quantize BASE --lora ADAPTER."
        )
    for module, parts in adapter.modules.items():
        if "lora_magnitude_vector" in parts:
            raise CheckpointError(
                f"{adapter.path}: {module} is a DoRA adapter, whose lengths an adapter of llama.cpp cannot hold. "
                "Merge it: ggufkit quantize BASE --lora ADAPTER."
            )


def _name_of(module: str) -> str:
    """As transformers names the weight in the model itself, whatever stood around it."""
    name = f"{canonical(module)}.weight"
    return name if name.startswith("lm_head.") else f"model.{name}"


def _thin_of(
    tensor: ModelTensor, thin: dict[str, Thin], factors: dict[str, float], path: Path
) -> tuple[F32Array, F32Array]:
    """A (r, n_per_row) and B (n_rows, r) of a tensor; with an axis of experts before them where it has one."""
    pairs = []
    for part in tensor.parts:
        whole = thin[part.name]
        first = part.offset // part.row_nbytes
        a, b = whole.down, whole.up[first : first + part.n_rows] * np.float32(factors[part.name])
        if (bend := tensor.bend) is not None:
            if bend.transposed or bend.value is not None:
                raise CheckpointError(
                    f"{path}: {part.name} becomes {tensor.name}, to which llama.cpp adds no adapter. Merge it: "
                    "ggufkit quantize BASE --lora ADAPTER."
                )
            a = a if bend.columns is None else a[:, bend.columns]
            b = b if bend.order is None else b[bend.order]
        pairs.append((a, b))
    if len(tensor.shape) == 2:
        return pairs[0]
    if len(pairs) != tensor.n_expert or len({a.shape for a, _ in pairs}) > 1:
        raise CheckpointError(f"{path}: {tensor.name}: the adapters of its experts are not all of one rank.")
    return np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs])


def _require_head(name: str, family: Family, config: Config, path: Path) -> None:
    """Where the embeddings make the logits, a file has no head, and llama.cpp ends over an adapter of either."""
    if HEAD not in family.whole or config.get("tie_word_embeddings") is True:
        raise CheckpointError(
            f"{path}: the adapter changes {name}, and this model's embeddings make the logits: llama.cpp has no place "
            "for it. Merge it: ggufkit quantize BASE --lora ADAPTER."
        )


def _alpha(adapter: Adapter, thin: dict[str, Thin]) -> tuple[float, dict[str, float]]:
    """adapter.lora.alpha, and what B of each weight is multiplied with to be scaled as it was trained."""
    wanted = {name: each.scale * each.rank for name, each in thin.items()}
    alphas = set(wanted.values())
    alpha = alphas.pop() if len(alphas) == 1 else adapter.alpha or max(alphas)
    if not alpha:
        raise CheckpointError(f"{adapter.path}: lora_alpha is 0: the adapter adds nothing.")
    return alpha, {name: value / alpha for name, value in wanted.items()}


def _metadata(adapter: Adapter, arch: str, alpha: float, n_weights: int, notes: list[str]) -> Iterator[KV]:
    string = GGUFValueType.STRING
    yield KV(Keys.General.ARCHITECTURE, string, arch)
    named = Checkpoint(adapter.path, {}, {}, (), {}, notes)
    entries: Sequence[KV] = general_metadata(named, arch, (), kind=gguf.GGUFType.ADAPTER, n_weights=n_weights)
    for kv in entries:
        yield kv
        if kv.key == Keys.General.TYPE:
            yield KV(Keys.Adapter.TYPE, string, "lora")
    yield KV(Keys.Adapter.LORA_ALPHA, GGUFValueType.FLOAT32, alpha)
    tokens = adapter.config.get("alora_invocation_tokens")
    if tokens:
        if not isinstance(tokens, list) or not all(isinstance(n, int) and 0 <= n < 1 << 31 for n in tokens):
            raise CheckpointError(f"{adapter.path}: alora_invocation_tokens is {tokens!r:.60}, wanted token numbers.")
        yield KV(Keys.Adapter.ALORA_INVOCATION_TOKENS, GGUFValueType.ARRAY, tokens, GGUFValueType.UINT32)
    yield KV(Keys.General.QUANTIZATION_VERSION, GGUFValueType.UINT32, GGML_QUANT_VERSION)
