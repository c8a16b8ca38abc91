"""A GGUF model, one file or all parts of a split one, as one value. The layout is drawn in `gguf_part`.

Knows how the parts of a split are named and numbered. Does not know what a key or a tensor means.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

from gguf import LlamaFileType

from ggufkit.errors import GgufError
from ggufkit.formats.files import shown
from ggufkit.formats.gguf_part import GgufPart, read_part
from ggufkit.formats.model import KV
from ggufkit.formats.tensor import TensorRef

SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS = "split.no", "split.count", "split.tensors.count"
_MAX_PARTS = 9999
_PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A GGUF model or other GGUF file. Metadata is that of the first part, tensors are those of all parts in order.

    `path` is the first part's, whichever part was opened: it is the one that llama.cpp begins with.

    Shapes of tensors are numpy order; their dtype is the name of the ggml type, which need not be one of weights.
    """

    path: Path
    version: int
    alignment: int
    metadata: dict[str, KV]
    tensors: tuple[TensorRef, ...]
    parts: tuple[GgufPart, ...]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read and check the header, of all parts where the file is one of a split. Raises GgufError."""
        first = read_part(path)
        parts = (first,) if _number(first, SPLIT_COUNT, 1) <= 1 else tuple(_all_parts(first))
        tensors = tuple(t for part in parts for t in part.tensors)
        if len(parts) > 1:
            _check_split(parts, tensors)
        head = parts[0]
        return cls(head.file.path, head.version, head.alignment, head.metadata, tensors, parts)

    def value(self, key: str) -> Any:
        """Value of a metadata key, or None."""
        kv = self.metadata.get(key)
        return None if kv is None else kv.value

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the file that does no harm."""
        return tuple(
            f"{part.file.path.name}: {part.trailing_nbytes} bytes follow the last tensor; nothing reads them"
            for part in self.parts
            if part.trailing_nbytes
        )

    @property
    def n_weights(self) -> int:
        return sum(prod(t.shape) for t in self.tensors)

    @property
    def bpw(self) -> float:
        """Bits a weight, over all tensors."""
        return 8 * sum(t.nbytes for t in self.tensors) / self.n_weights if self.n_weights else 0.0

    @property
    def type_name(self) -> str:
        """The mixture that general.file_type names, or ""."""
        try:
            return str(LlamaFileType(self.value("general.file_type")).name).removeprefix("MOSTLY_").removeprefix("ALL_")
        except ValueError:
            return ""

    def close(self) -> None:
        for part in self.parts:
            part.file.close()


def _number(part: GgufPart, key: str, default: int) -> int:
    kv = part.metadata.get(key)
    if kv is None:
        return default
    if type(kv.value) is not int or kv.value < 0:
        raise GgufError(f"{part.file.path}: {key} is {shown(str(kv.value))}, wanted a whole number from 0.")
    return kv.value


def _all_parts(first: GgufPart) -> Iterator[GgufPart]:
    """Every part of the split that `first` belongs to, found by llama.cpp's naming, in order."""
    path, count = first.file.path, _number(first, SPLIT_COUNT, 1)
    match = _PART_NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != count or count > _MAX_PARTS:
        raise GgufError(
            f"{path} is part of a split of {count} files, whose names end in -00001-of-{count:05d}.gguf and so on. "
            "Rename the parts like that."
        )
    for number in range(count):
        sibling = path.with_name(f"{match['stem']}-{number + 1:05d}-of-{count:05d}.gguf")
        if not sibling.exists():
            raise GgufError(f"{sibling} is missing; the model is split over {count} files. Fetch this one, too.")
        part = first if sibling == path else read_part(sibling)
        if (got := (_number(part, SPLIT_NO, 0), _number(part, SPLIT_COUNT, 1))) != (number, count):
            raise GgufError(
                f"{sibling}: says it is part {got[0] + 1} of {got[1]}, its name says {number + 1} of {count}. "
                "Parts of different models are mixed; fetch them again."
            )
        yield part


def _check_split(parts: tuple[GgufPart, ...], tensors: tuple[TensorRef, ...]) -> None:
    path = parts[0].file.path
    wanted = _number(parts[0], SPLIT_TENSORS, len(tensors))
    if len(tensors) != wanted:
        raise GgufError(
            f"{path}: the parts hold {len(tensors)} tensors together, {SPLIT_TENSORS} says {wanted}. "
            "Parts of different models are mixed; fetch them again."
        )
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise GgufError(f"{tensor.file.path}: tensor {shown(tensor.name)} is in two parts of the split.")
        seen.add(tensor.name)
