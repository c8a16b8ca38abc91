"""Which files of a checkpoint's folder hold its weights, and whether they hold what the index promises.

Knows the names model.safetensors, model.safetensors.index.json and model-00001-of-00003.safetensors, and Mistral's
own of the same kind, consolidated.safetensors.
The index is a stranger's: a shard is a plain name inside the folder, or it is refused.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufkit.errors import CheckpointError
from ggufkit.formats import strict_json
from ggufkit.formats.files import disguise, is_present, read_small, shown
from ggufkit.formats.safetensors import SafetensorsFile, open_safetensors
from ggufkit.formats.tensor import TensorRef

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
STEMS = ("model", "consolidated")
MAX_INDEX_NBYTES = 256 << 20
_SHARD = re.compile(r"(?:model|consolidated)-(\d{5,6})-of-(\d{5,6})\.safetensors")
# What an index may list though no shard holds it: a head tied to the embeddings, buffers that are computed again.
_NOT_STORED = ("lm_head.weight", ".rotary_emb.inv_freq", ".attention.bias", ".masked_bias", ".position_ids")
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_FETCH = "Fetch the checkpoint again, with every file of it."


def find_shards(folder: Path, notes: list[str], *, own_first: bool = False) -> tuple[list[str], dict[str, str] | None]:
    """Names of the files that hold the weights, in order, and the index's tensor -> file where there is one.

    own_first  look for Mistral's own names first: the same weights often lie there twice
    notes      gets a line where the index cannot be read and the shards' own numbers say that all are there
    """
    # what begins with a dot is litter: macOS puts ._NAME beside every file on disks of another make
    names = sorted(p.name for p in folder.glob("[!.]*.safetensors") if not p.is_dir())
    for stem in reversed(STEMS) if own_first else STEMS:
        if (found := _of_stem(folder, stem, names, notes)) is not None:
            return found
    return [_only(folder, names)], None


def _of_stem(
    folder: Path, stem: str, names: Sequence[str], notes: list[str]
) -> tuple[list[str], dict[str, str] | None] | None:
    """The weights under one of the usual names; None where there are none."""
    single, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    if single in names:
        return [single], None
    numbered = [name for name in names if name.startswith(f"{stem}-") and _SHARD.fullmatch(name)]
    weight_map = _index(folder / index, numbered, notes) if is_present(folder / index) else None
    if weight_map is not None:
        named = sorted(set(weight_map.values()))
        extra = [name for name in numbered if name not in named]
        if extra:
            raise CheckpointError(
                f"{folder / extra[0]} is not in {index}. It belongs to another download; move it away, or fetch again."
            )
        return named, weight_map
    return (_complete(folder, numbered), None) if numbered else None


def _index(path: Path, numbered: Sequence[str], notes: list[str]) -> dict[str, str] | None:
    """What the index says; None where it cannot be read and is not needed. Raises CheckpointError."""
    try:
        weight_map = _parse_index(path)
    except CheckpointError as error:
        if not numbered:
            raise
        _complete(path.parent, numbered)
        notes.append(f"{error} The shards are complete without it.")
        return None
    return _with_plain_names(path, weight_map)


def read_index(path: Path) -> dict[str, str]:
    """Tensor -> shard of an index, with every shard a plain file name. Raises CheckpointError."""
    return _with_plain_names(path, _parse_index(path))


def _with_plain_names(path: Path, weight_map: dict[str, str]) -> dict[str, str]:
    for name, shard in weight_map.items():
        _check_shard_name(path, name, shard)
    return weight_map


def _parse_index(path: Path) -> dict[str, str]:
    raw = read_small(path, MAX_INDEX_NBYTES, CheckpointError)
    if what := disguise(raw[:64]):
        raise CheckpointError(f"{path} {what}")
    try:
        value = strict_json.loads(raw)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}. Fetch the index again.") from error
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: weight_map is {shown(repr(weight_map))}, wanted tensors with their files.")
    return weight_map


def _check_shard_name(path: Path, tensor: str, shard: Any) -> None:
    plain = (
        isinstance(shard, str)
        and shard.isprintable()
        and shard.endswith(".safetensors")
        and not shard.startswith((".", "-"))
        and not set(shard) & set('/\\:*?"<>|')
    )
    if not plain:
        raise CheckpointError(
            f"{path}: tensor {shown(tensor)} is said to be in {shown(repr(shard))}, wanted a plain name of a "
            ".safetensors file in this folder. Do not use this checkpoint unless you know why it says so."
        )


def _complete(folder: Path, numbered: Sequence[str]) -> list[str]:
    """Numbered shards without an index: all of them, of one set."""
    matches = [match for match in map(_SHARD.fullmatch, numbered) if match]
    counts = {match[2] for match in matches}
    if len(counts) > 1:
        raise CheckpointError(
            f"{folder} holds shards of {' and of '.join(sorted(counts))} without {INDEX}, which would say "
            f"which to use. {_FETCH}"
        )
    have, count = {int(match[1]) for match in matches}, int(counts.pop())
    absent = next((k for k in range(1, count + 1) if k not in have), None)
    if absent is not None or len(have) != count:
        raise CheckpointError(
            f"{folder} has {len(have)} of {count} shards; "
            f"{f'number {absent} is missing' if absent else 'one is numbered out of range'}. {_FETCH}"
        )
    return list(numbered)


def _only(folder: Path, names: Sequence[str]) -> str:
    """The one .safetensors file of a folder that has no usual names."""
    adapters = [name for name in names if name.startswith("adapter_")]
    others = [name for name in names if name not in adapters]
    if len(others) == 1:
        return others[0]
    if others:
        raise CheckpointError(
            f"{folder} holds {', '.join(map(shown, others[:4]))} and neither {SINGLE} nor {INDEX}. {_FETCH}"
        )
    if adapters:
        raise CheckpointError(
            f"{folder} holds an adapter ({adapters[0]}), not a model. Merge it into its base model first."
        )
    found = sorted(folder.glob("[!.]*"))
    pickles = [p.name for p in found if p.suffix in _PICKLES]
    if pickles:
        raise CheckpointError(
            f"{folder} holds pickled weights ({shown(pickles[0])}). Opening them runs code, so ggufkit does not. "
            "Fetch the checkpoint's .safetensors files, or convert it in a throw-away machine, with transformers: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)."
        )
    models = [p.name for p in found if p.suffix == ".gguf"]
    hint = f"Pass the file itself: {folder / models[0]}" if models else _FETCH
    raise CheckpointError(f"{folder} has no .safetensors file. {hint}")


def open_shards(
    folder: Path, names: Sequence[str], weight_map: Mapping[str, str] | None, notes: list[str]
) -> tuple[tuple[SafetensorsFile, ...], dict[str, TensorRef]]:
    """Open the shards and check them against the index and each other. Raises CheckpointError.

    notes  gets a line for each tensor that the index lists, no shard holds and a model can do without
    """
    index = INDEX.replace(*STEMS) if names[0].startswith(STEMS[1]) else INDEX
    shards = tuple(open_safetensors(_inside(folder, name, index)) for name in names)
    tensors: dict[str, TensorRef] = {}
    for name, shard in zip(names, shards, strict=True):
        for tensor in shard.tensors.values():
            if tensor.name in tensors:
                other = tensors[tensor.name].file.path.name
                raise CheckpointError(f"{folder}: tensor {shown(tensor.name)} is in {other} and in {name}. {_FETCH}")
            if weight_map is not None and weight_map.get(tensor.name) != name:
                said = weight_map.get(tensor.name)
                raise CheckpointError(
                    f"{folder / name}: tensor {shown(tensor.name)} is in this shard, "
                    f"{f'{index} says {said}' if said else f'{index} does not list it'}. {_FETCH}"
                )
            tensors[tensor.name] = tensor
    for tensor_name, shard_name in (weight_map or {}).items():
        if tensor_name not in tensors and tensor_name.endswith(_NOT_STORED):
            notes.append(f"{index} lists {shown(tensor_name)}, which {shard_name} does not hold")
        elif tensor_name not in tensors:
            raise CheckpointError(
                f"{folder / shard_name}: tensor {shown(tensor_name)} is absent, {index} says it is there. {_FETCH}"
            )
    if not tensors:
        raise CheckpointError(f"{folder}: no tensors in {', '.join(names)}. {_FETCH}")
    return shards, tensors


def _inside(folder: Path, name: str, index: str) -> Path:
    """Path of a shard. Its name was checked; links are followed, since whoever made the folder placed them."""
    path = folder / name
    if not path.exists():
        what = "is a link to a file that is gone" if path.is_symlink() else f"is missing; {index} names it"
        raise CheckpointError(f"{path} {what}. Fetch the shard again.")
    return path
