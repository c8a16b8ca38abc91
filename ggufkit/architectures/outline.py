"""The tensors of a checkpoint whose weights are not here, from its config alone: what a plan needs and no more.

A shard index says which of a family's optional tensors there are (biases); without one those are left out.
"""

import re
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path

import gguf

from ggufkit.architectures.bends import model_tensor
from ggufkit.architectures.config import Config
from ggufkit.architectures.family import Family
from ggufkit.architectures.tensors import n_mtp, renamed
from ggufkit.errors import CheckpointError
from ggufkit.formats.model import ModelTensor
from ggufkit.formats.source_file import MemoryFile
from ggufkit.formats.tensor import TensorRef
from quant import quant_type

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def outlined(family: Family, config: Config, listed: Iterable[str], *, mtp: bool) -> tuple[ModelTensor, ...]:
    """Names, shapes and types; rows cannot be read. Raises CheckpointError for sizes that config.json lacks.

    listed  names of the checkpoint's tensors, as its index has them
    """
    names = list(listed)
    config.n_mtp = _n_mtp(family, config, names) if mtp else 0
    stated = config.get("quantization_config")
    is_mxfp4 = isinstance(stated, dict) and stated.get("quant_method") == "mxfp4"
    dtype = _DTYPES.get(str(config.get("dtype", "torch_dtype")).removeprefix("torch."), "BF16")
    tensors = list(family.computed(config)) if family.computed else []
    for name in dict.fromkeys([*family.required(config), *_optional(family, config, names)]):
        shape = family.shape_of(config, name)
        assert shape is not None, f"{name} has no shape in the table"
        kind = "MXFP4" if is_mxfp4 and len(shape) == 3 else dtype
        nbytes = prod(shape[:-1]) * quant_type(kind).row_nbytes(shape[-1])
        ref = TensorRef(name, shape, kind, MemoryFile(config.folder / "config.json", b""), 0, nbytes)
        tensors.append(model_tensor(name, shape, [ref]))
    return tuple(tensors)


def _n_mtp(family: Family, config: Config, names: list[str]) -> int:
    if names:
        return n_mtp(family, config, names)
    stated = config.get("num_nextn_predict_layers", "mtp_num_hidden_layers")
    return stated if family.mtp is not None and isinstance(stated, int) and not isinstance(stated, bool) else 0


def _optional(family: Family, config: Config, names: list[str]) -> Iterator[str]:
    """The family's optional tensors among those that are listed."""
    known = gguf.get_tensor_name_map(family.arch, family.n_layer(config))
    for name in (renamed(family, config, name) for name in names):
        for mapped in (known.get_name(name, try_suffixes=(".weight", ".bias")), _moved(family, config, name)):
            layer = re.match(r"blk\.(\d+)\.", mapped or "")
            beyond = layer is not None and int(layer[1]) >= family.n_layer(config)
            if mapped is not None and not beyond and family.shape_of(config, mapped) is not None:
                yield mapped


def _moved(family: Family, config: Config, name: str) -> str | None:
    """The one tensor that a family makes of another under a name of its own; what it splits is never optional."""
    match = re.fullmatch(r"model\.layers\.(\d{1,5})\.(.+?)(\.weight)?", name)
    split = family.splits.get(match[2]) if match else None
    if match is None or split is None:
        return None
    any_shape = TensorRef(name, (1, 1), "F32", MemoryFile(config.folder / "config.json", b""), 0, 4)
    try:
        made = list(split(config, any_shape))
    except CheckpointError:  # it asks more of the shape
        return None
    return f"blk.{match[1]}.{made[0].name}" if len(made) == 1 else None


def lacks_weights(folder: Path) -> bool:
    """Whether a folder holds a config and nothing that looks like weights."""
    kinds = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")
    files = {path.name for path in folder.iterdir()}
    return "config.json" in files and not any(name.endswith(kinds) for name in files)
