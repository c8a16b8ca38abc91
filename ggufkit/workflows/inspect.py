"""`inspect`: what is in a GGUF, from its header alone. Does not print, runs nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFValueType

from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.model import KV

CHAT_TEMPLATE = "tokenizer.chat_template"
_SHOWN_ITEMS = 5


@dataclass(frozen=True, slots=True)
class MetadataRow:
    """One entry. Arrays have their length and first items as value."""

    key: str
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

    type   the mixture that general.file_type names, or ""
    notes  what is odd and does no harm
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
    metadata: tuple[MetadataRow, ...]
    tensors: tuple[TensorRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def nbytes_by_type(self) -> dict[str, int]:
        """Bytes of tensors of each type, largest first."""
        sums: dict[str, int] = {}
        for row in self.tensors:
            sums[row.type] = sums.get(row.type, 0) + row.nbytes
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


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
        metadata=tuple(_row(kv) for kv in file.metadata.values()),
        tensors=tuple(TensorRow(t.name, t.shape, t.dtype, t.nbytes) for t in file.tensors),
        notes=file.notes,
    )


def _row(kv: KV) -> MetadataRow:
    if kv.type is not GGUFValueType.ARRAY or kv.item_type is None:
        return MetadataRow(kv.key, kv.type.name, kv.value)
    head = [kv.value[i] for i in range(min(_SHOWN_ITEMS, len(kv.value)))]
    return MetadataRow(kv.key, f"{kv.item_type.name}[]", head, len(kv.value))
