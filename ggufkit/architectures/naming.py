"""general.*: what a model is called, how large it is, who made it, how to sample. As gguf-py's `Metadata` guesses it.

Knows the folder's name, the model card and generation_config.json. Does not know tensors beyond their shapes.
"""

import os
import re
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import gguf
from gguf import GGUFValueType, Keys

from ggufkit.architectures.card import brief, is_word, read_card
from ggufkit.architectures.config import MAX_INTEGER
from ggufkit.formats.checkpoint import GENERATION_CONFIG, Checkpoint
from ggufkit.formats.files import is_local
from ggufkit.formats.model import KV, ModelTensor

_HASH = re.compile(r"[0-9a-f]{40}")

# (field of gguf.Metadata, names in generation_config.json, kind of value)
_SAMPLING = (
    ("sampling_sequence", ("sequence",), str),
    ("sampling_top_k", ("top_k",), int),
    ("sampling_top_p", ("top_p",), float),
    ("sampling_min_p", ("min_p",), float),
    ("sampling_xtc_probability", ("xtc_probability",), float),
    ("sampling_xtc_threshold", ("xtc_threshold",), float),
    ("sampling_temp", ("temperature",), float),
    ("sampling_penalty_last_n", ("penalty_last_n",), int),
    ("sampling_penalty_repeat", ("penalty_repeat", "repetition_penalty"), float),
    ("sampling_mirostat", ("mirostat",), int),
    ("sampling_mirostat_tau", ("mirostat_tau",), float),
    ("sampling_mirostat_eta", ("mirostat_eta",), float),
)


def general_metadata(
    checkpoint: Checkpoint,
    arch: str,
    tensors: Iterable[ModelTensor],
    *,
    name: str | None = None,
    kind: str = gguf.GGUFType.MODEL,
    n_weights: int | None = None,
) -> tuple[KV, ...]:
    """Entries from general.type to the last general.* of the naming, in the converter's order.

    name       instead of the one guessed from the folder's name, the model card or config.json
    n_weights  instead of those of `tensors`

    No model needs any of it: what cannot be read is left out, and `checkpoint.notes` says so.
    """
    counts = parameter_counts(tensors)
    metadata = _guess(checkpoint, counts[0] if n_weights is None else n_weights)
    _read_sampling(metadata, checkpoint.generation_config, checkpoint.notes)
    metadata.name = name or metadata.name or arch
    if metadata.size_label is None and counts[0] > 0:
        metadata.size_label = gguf.size_label(*counts)
    collector = gguf.GGUFWriter(None, arch)
    collector.add_type(kind)
    metadata.set_gguf_meta_model(collector)
    return tuple(
        KV(key, value.type, value.value, value.sub_type or _item_type(value.value))
        for key, value in collector.kv_data[0].items()
        if key != Keys.General.ARCHITECTURE
    )


def parameter_counts(tensors: Iterable[ModelTensor]) -> tuple[int, int, int, int]:
    """(all, shared, of one expert, experts): the numbers behind a label like 8x7B."""
    shared = expert = total = n_experts = n_stacks = 0
    for tensor in tensors:
        total += tensor.n_weights
        if "_exps." in tensor.name and len(tensor.shape) == 3:
            expert += tensor.n_weights // tensor.n_expert
            n_experts, n_stacks = n_experts + tensor.n_expert, n_stacks + 1
        else:
            shared += tensor.n_weights
    return total, shared, expert, n_experts // n_stacks if n_stacks else 0


def _guess(checkpoint: Checkpoint, n_weights: int) -> gguf.Metadata:
    card = read_card(checkpoint.path, checkpoint.notes)
    folder, hub_name = place(checkpoint.path)
    stated = checkpoint.config.get("_name_or_path")
    known = stated if is_word(stated) and stated and not is_local(stated) else hub_name
    names = {"_name_or_path": known} if known else {}
    return gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), card, names, folder, n_weights)


def place(folder: Path) -> tuple[Path | None, str]:
    """(a folder whose name says what the model is called, its name on the hub): None and "" where nothing says so.

    A snapshot of the hub's cache is called by its revision; the model's name stands two folders above it:
    models--org--name/snapshots/REVISION.
    """
    path = Path(os.path.abspath(folder))  # noqa: PTH100 - `..` names nothing, but links keep a person's name
    repo = path.parent.parent.name
    if path.parent.name == "snapshots" and repo.startswith("models--"):
        return None, repo.removeprefix("models--").replace("--", "/", 1)
    return (None if _HASH.fullmatch(path.name) or not is_word(path.name) else path), ""


def _read_sampling(metadata: gguf.Metadata, declared: Mapping[str, Any], notes: list[str]) -> None:
    for name, keys, kind in _SAMPLING:
        found = next((declared[key] for key in keys if declared.get(key) is not None), None)
        if found is None:
            continue
        value = _setting(found, kind)
        if value is None:
            notes.append(f"{GENERATION_CONFIG}: {keys[-1]} is {brief(found)}, wanted {_KINDS[kind]}; left out")
        setattr(metadata, name, value)


_KINDS = {int: "a whole number", float: "a number", str: "words"}


def _setting(value: Any, kind: type) -> Any:
    """`value` as a `kind`, a whole number also where it is written 20.0; None where it is something else."""
    if kind is str:
        return value if is_word(value) else None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not isfinite(value)
        or abs(value) >= MAX_INTEGER
    ):
        return None
    return float(value) if kind is float else int(value) if int(value) == value else None


def _item_type(value: Any) -> GGUFValueType | None:
    return GGUFValueType.get_type(value[0]) if isinstance(value, list) and value else None
