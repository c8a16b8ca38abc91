"""Source tensors → GGUF tensors: names, row orders, stacked experts. Headers only; no weight is read.

Knows how a name is mapped, which rows move and what must be there. Does not know families: a `Family` says which
tensors it has.
"""

from collections.abc import Iterable
from dataclasses import replace

import gguf
import numpy as np
from numpy.typing import NDArray

from ggufkit.architectures.config import Config
from ggufkit.architectures.experts import Stacker, check_shape, model_tensor
from ggufkit.architectures.family import Family
from ggufkit.errors import CheckpointError
from ggufkit.formats.model import ModelTensor
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


def map_tensors(
    family: Family, config: Config, refs: Iterable[TensorRef]
) -> tuple[tuple[ModelTensor, ...], dict[str, str]]:
    """GGUF tensors in the converter's order, and what was dropped with its reason.

    Computed tensors come first, then shards in the order of their names and tensors in the order of theirs; experts
    come where the last of their layer stood. Raises CheckpointError that names what is left over, absent, of another
    shape or not a float.
    """
    stacker = Stacker(family.experts, config) if family.experts else None
    names = gguf.get_tensor_name_map(family.arch, config.integer("num_hidden_layers"))
    tensors = list(family.computed(config)) if family.computed else []
    dropped: dict[str, str] = {}
    for ref in sorted(refs, key=lambda ref: (ref.file.path.name, ref.name)):
        reason = next((why for end, why in DROPPED.items() if ref.name.endswith(end)), None)
        if reason is not None:
            dropped[ref.name] = reason
            continue
        _check_float(ref, config)
        stacks = stacker.take(ref) if stacker else None
        tensors += [_single(family, config, names, ref)] if stacks is None else stacks
    if stacker:
        stacker.check_complete()
    _check_all(family, config, tensors)
    return tuple(tensors), dropped


def permute_rows(n_rows: int, n_head: int) -> NDArray[np.int64]:
    """Order that interleaves the halves of every head: Hugging Face rotates (i, i + d/2), llama.cpp (2i, 2i + 1)."""
    return np.arange(n_rows).reshape(n_head, 2, -1).swapaxes(1, 2).reshape(-1)


def _check_float(ref: TensorRef, config: Config) -> None:
    """What the tensors are decides: a quantization_config may be left over from the training of plain floats."""
    if ref.dtype in FLOATS:
        return
    declared = config.get("quantization_config")
    method = declared.get("quant_method") if isinstance(declared, dict) else None
    said = f" (config.json says {method!r:.40})" if method else ""
    raise CheckpointError(
        f"{ref.file.path}: {ref.name} is {ref.dtype}, wanted {', '.join(FLOATS)}{said}. "
        "Is the checkpoint quantized already? Use the original weights."
    )


def _single(family: Family, config: Config, names: gguf.TensorNameMap, ref: TensorRef) -> ModelTensor:
    name = names.get_name(ref.name, try_suffixes=(".weight", ".bias"))
    wanted = family.shape_of(name) if name is not None else None
    if name is None or wanted is None:
        raise CheckpointError(
            f"{ref.file.path}: {ref.name} has no place in a {family.arch_name} file of "
            f"{config.integer('num_hidden_layers')} layers. Is config.json the one of these weights?"
        )
    check_shape(ref.name, ref.shape, wanted, config)
    tensor = model_tensor(name, ref.shape, (ref,))
    heads = family.permuted.get(name.rpartition(".")[0].rpartition(".")[2])
    return tensor if heads is None else replace(tensor, order=permute_rows(ref.shape[0], heads(config)))


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
            f"{config.folder}: nothing makes {missing[0]}{more}. Is a shard missing, or config.json of another model?"
        )
