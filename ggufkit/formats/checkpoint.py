"""A Hugging Face folder: its config and, over all shards, a `TensorRef` for every tensor.

Knows file names, the shard index and which files may be read. Pickled weights are never opened: unpickling runs code.
Does not know architectures, tokenizers or what a tensor is for.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ggufkit.errors import CheckpointError
from ggufkit.formats import strict_json
from ggufkit.formats.files import disguise, is_present, read_small, shown
from ggufkit.formats.fingerprint import content_digest
from ggufkit.formats.safetensors import SafetensorsFile
from ggufkit.formats.shards import INDEX, find_shards, open_shards, read_index
from ggufkit.formats.tensor import TensorRef

CONFIG = "config.json"
PARAMS = "params.json"  # Mistral's own, beside consolidated.safetensors
GENERATION_CONFIG = "generation_config.json"
_WHOLE = "Pass the folder of a Hugging Face checkpoint, with every file of it."
_NEARBY = ("*/config.json", "snapshots/*/config.json", "*/snapshots/*/config.json", "snapshots/*/*/config.json")
MAX_JSON_NBYTES = 256 << 20  # a tokenizer.json of 256,000 pieces has 35 MB


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened folder. `tensors` are in the order of the shards, and of the header within a shard.

    config       of config.json; without one, of Mistral's params.json, whose names `architectures.mistral` translates
    config_name  which of the two
    listed       without shards: names of the tensors, where an index lists them
    notes        what was left out because it could not be read and is not needed; readers of other files add theirs
    """

    path: Path
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    shards: tuple[SafetensorsFile, ...]
    tensors: Mapping[str, TensorRef]
    notes: list[str] = field(default_factory=list)
    config_name: str = CONFIG
    listed: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read config and headers and check them; no weight is read. Raises CheckpointError."""
        _check_folder(folder)
        config = read_json(folder, CONFIG)
        config_name = CONFIG
        if config is None and {"dim", "n_layers"} <= (params := read_json(folder, PARAMS) or {}).keys():
            config, config_name = params, PARAMS
        if config is None:
            within = next((path.parent for place in _NEARBY for path in sorted(folder.glob(place))), None)
            hint = f"Pass the folder that has it: {shown(str(within))}" if within else _WHOLE
            raise CheckpointError(f"{folder} has no {CONFIG}. {hint}")
        notes: list[str] = []
        names, weight_map = find_shards(folder, notes, own_first=config_name == PARAMS)
        shards, tensors = open_shards(folder, names, weight_map, notes)
        return cls(folder, config, read_optional(folder, GENERATION_CONFIG, notes), shards, tensors, notes, config_name)

    @classmethod
    def of_config(cls, folder: Path) -> Self:
        """The folder's config alone; it may hold no weights. Raises CheckpointError."""
        _check_folder(folder)
        config = read_json(folder, CONFIG)
        if config is None:
            raise CheckpointError(f"{folder} has no {CONFIG}. {_WHOLE}")
        notes: list[str] = []
        listed = tuple(read_index(folder / INDEX)) if is_present(folder / INDEX) else ()
        return cls(folder, config, read_optional(folder, GENERATION_CONFIG, notes), (), {}, notes, CONFIG, listed)

    def fingerprint(self) -> str:
        """Hex digest of config, sizes, headers and a sample of the weights. The folder's place does not matter."""
        digest = hashlib.sha256(read_bytes(self.path, self.config_name))
        for shard in sorted(self.shards, key=lambda s: s.file.path.name):
            digest.update(f"\n{shard.file.path.name} ".encode())
            digest.update(content_digest(shard.file, shard.data_offset, shard.nbytes))
        return digest.hexdigest()

    def close(self) -> None:
        for shard in self.shards:
            shard.file.close()


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file. Pass the folder that holds it and {CONFIG}.")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist or is not a folder. Check the path.")
    try:
        empty = next(folder.iterdir(), None) is None
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be listed: {error.strerror}. Check its permissions.") from error
    if empty:
        raise CheckpointError(f"{folder} is empty. The download did not happen; fetch the checkpoint again.")


def read_bytes(folder: Path, name: str, *, max_nbytes: int = MAX_JSON_NBYTES) -> bytes:
    """Content of a small file of the folder; b"" where it is absent. Raises CheckpointError where it is too large."""
    path = folder / name
    return read_small(path, max_nbytes, CheckpointError) if is_present(path) else b""


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """Object in a JSON file of the folder, or None where there is no such file. Raises CheckpointError."""
    path = folder / name
    if not is_present(path):
        return None
    raw = read_bytes(folder, name)
    if what := disguise(raw[:64]):
        raise CheckpointError(f"{path} {what}")
    try:
        value = strict_json.loads(raw)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}. Fetch the file again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: wanted a JSON object, got {shown(str(value))}. Fetch the file again.")
    return value


def read_optional(folder: Path, name: str, notes: list[str]) -> dict[str, Any]:
    """As `read_json`, for a file that nothing depends on: {} and a note where it is absent or cannot be read."""
    try:
        return read_json(folder, name) or {}
    except CheckpointError as error:
        notes.append(f"{error} It is left out.")
        return {}
