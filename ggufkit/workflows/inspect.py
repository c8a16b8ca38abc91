"""`inspect`: what is in a GGUF, from its header alone. Does not print, runs nothing."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFValueType

from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.model import KV
from ggufkit.formats.tensor import TensorRef

CHAT_TEMPLATE = "tokenizer.chat_template"
_SHOWN_ITEMS = 5


@dataclass(frozen=True, slots=True)
class MetadataRow:
    """One entry. Arrays have their length and first items as value."""

    type: str
    value: Any
    length: int | None = None


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor; shape in numpy order."""

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class InspectReport:
    """A file's header.

    type            the mixture that general.file_type names, or ""
    nbytes_by_type  bytes of tensors of each type, largest first
    notes           what is odd and does no harm
    """

    file: str
    nbytes: int
    version: int
    n_part: int
    arch: str
    name: str
    type: str
    n_weights: int
    bpw: float
    chat_template: str
    metadata: dict[str, MetadataRow]
    nbytes_by_type: dict[str, int]
    tensors: tuple[TensorRow, ...]
    notes: tuple[str, ...] = ()


def inspect(path: Path) -> InspectReport:
    """Read the header. Raises GgufError for a file that breaks the format."""
    file = GgufFile.open(path)
    file.close()
    return InspectReport(
        file=file.path.name,
        nbytes=file.nbytes,
        version=file.version,
        n_part=len(file.parts),
        arch=str(file.value("general.architecture") or ""),
        name=str(file.value("general.name") or ""),
        type=file.type_name,
        n_weights=file.n_weights,
        bpw=file.bpw,
        chat_template=str(file.value(CHAT_TEMPLATE) or ""),
        metadata={kv.key: _row(kv) for kv in file.metadata.values()},
        nbytes_by_type=_nbytes_by_type(file.tensors),
        tensors=tuple(TensorRow(t.name, t.shape, t.dtype, t.nbytes) for t in file.tensors),
        notes=file.notes,
    )


def _nbytes_by_type(tensors: Iterable[TensorRef]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for tensor in tensors:
        sums[tensor.dtype] += tensor.nbytes
    return dict(sums.most_common())


def _row(kv: KV) -> MetadataRow:
    if kv.type is not GGUFValueType.ARRAY or kv.item_type is None:
        return MetadataRow(kv.type.name, kv.value)
    head = [kv.value[i] for i in range(min(_SHOWN_ITEMS, len(kv.value)))]
    return MetadataRow(f"{kv.item_type.name}[]", head, len(kv.value))
