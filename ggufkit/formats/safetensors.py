"""One .safetensors file: the header is checked completely, then every tensor is a `TensorRef`.

    ┌──────────────┬────────────────────────────┬───────────────────────────────┐
    │ n: u64 LE    │ header: n bytes of JSON    │ data: tensors back to back    │
    └──────────────┴────────────────────────────┴───────────────────────────────┘
    {"name": {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [begin, end]}, …, "__metadata__": {str: str}}

Offsets count from the start of the data. The rules are those of the safetensors crate and a little stricter: what it
rejects is rejected here. No weight is read. Does not know folders, shards or what a tensor is for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ggufkit.errors import CheckpointError
from ggufkit.formats import strict_json
from ggufkit.formats.files import checked_size, disguise, shown
from ggufkit.formats.source_file import SourceFile
from ggufkit.formats.tensor import TensorRef

LENGTH_NBYTES = 8
MAX_HEADER_NBYTES = 100_000_000  # the crate's own bound
MAX_TENSORS = 1 << 17  # of one file; the largest models have fewer over all their shards
METADATA_KEY = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
_MAX_SIZE = 2**64 - 1
_AGAIN = "The download is probably cut short; fetch the file again."
_DAMAGED = "The file is damaged or was made to mislead; fetch it again from a source you trust."

# Bits of one element. Source: safetensors 0.8 `Dtype`.
DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class Entry(NamedTuple):
    """One tensor of the header; begin and end count from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A checked file; `tensors` keep the header's order, their bytes begin at `data_offset`."""

    file: SourceFile
    nbytes: int
    data_offset: int
    tensors: dict[str, TensorRef]


def open_safetensors(path: Path) -> SafetensorsFile:
    """Read and check the header of one file. Raises CheckpointError with file, tensor, got against wanted in bytes."""
    nbytes = checked_size(path, CheckpointError)
    file = SourceFile(path)
    head = file.pread(0, min(nbytes, 512)).tobytes()
    what = disguise(head)
    if what:
        raise CheckpointError(f"{path} {what}")
    data_offset = LENGTH_NBYTES + header_length(head, nbytes, str(path))
    header = file.pread(LENGTH_NBYTES, data_offset - LENGTH_NBYTES).tobytes()
    entries = parse_header(header, nbytes, str(path))
    return SafetensorsFile(
        file=file,
        nbytes=nbytes,
        data_offset=data_offset,
        tensors={e.name: _ref(e, file, data_offset) for e in entries},
    )


def _ref(entry: Entry, file: SourceFile, data_offset: int) -> TensorRef:
    nbytes = entry.end - entry.begin
    return TensorRef(entry.name, entry.shape, entry.dtype, file, data_offset + entry.begin, nbytes)


def header_length(head: bytes, file_nbytes: int, where: str) -> int:
    """Length of the header in bytes, from the first bytes of the file, bounded by the file and by the format."""
    if file_nbytes < LENGTH_NBYTES:
        raise CheckpointError(f"{where}: {file_nbytes} bytes are too few for a safetensors file. {_AGAIN}")
    length = int.from_bytes(head[:LENGTH_NBYTES], "little")
    if length > MAX_HEADER_NBYTES:
        raise CheckpointError(
            f"{where}: the header claims {length} bytes, at most {MAX_HEADER_NBYTES} are allowed. "
            "This is not a safetensors file, or it is damaged."
        )
    if LENGTH_NBYTES + length > file_nbytes:
        raise CheckpointError(
            f"{where}: the header claims {length} bytes, the file has {file_nbytes - LENGTH_NBYTES} after it. {_AGAIN}"
        )
    return length


def parse_header(header: bytes, file_nbytes: int, where: str) -> list[Entry]:
    """Entries of a header, in its order, checked against each other and the size of the file."""
    if not header.startswith(b"{"):
        raise CheckpointError(f"{where}: the header does not begin with '{{'. This is not a safetensors file.")
    if (n_tensors := header.count(b'"data_offsets"')) > MAX_TENSORS:
        raise CheckpointError(
            f"{where}: the header lists {n_tensors} tensors, at most {MAX_TENSORS} are read. {_DAMAGED}"
        )
    try:
        fields = strict_json.loads(header, header=True)
    except ValueError as error:
        raise CheckpointError(f"{where}: the header cannot be read: {error}. {_DAMAGED}") from error
    _check_metadata(fields.pop(METADATA_KEY, {}), where)
    entries = [_entry(name, value, where) for name, value in fields.items()]
    _check_layout(entries, file_nbytes - LENGTH_NBYTES - len(header), where)
    return entries


def _check_metadata(metadata: Any, where: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{where}: {METADATA_KEY} is not an object of strings. {_DAMAGED}")
    for key, value in metadata.items():
        _check_text(key + value, METADATA_KEY, where)


def _check_text(text: str, what: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{where}: {what} is not Unicode text: {shown(text)}. {_DAMAGED}") from error


def _entry(name: str, value: Any, where: str) -> Entry:
    _check_text(name, "the name of a tensor", where)
    label = f"{where}: tensor {shown(name)}"
    if not isinstance(value, dict) or set(value) != _FIELDS:
        raise CheckpointError(f"{label} does not have exactly the fields {', '.join(sorted(_FIELDS))}. {_DAMAGED}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise CheckpointError(f"{label} has unknown dtype {shown(str(dtype))}. Known: {', '.join(DTYPE_BITS)}.")
    if not _is_sizes(shape):
        raise CheckpointError(f"{label} has a shape that is not a list of sizes: {shown(str(shape))}. {_DAMAGED}")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[1] < offsets[0]:
        raise CheckpointError(f"{label} has data_offsets {shown(str(offsets))}, wanted [begin, end]. {_DAMAGED}")
    entry = Entry(name, dtype, tuple(shape), *offsets)
    _check_span(entry, label)
    return entry


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n <= _MAX_SIZE for n in value)


def _check_span(entry: Entry, label: str) -> None:
    """Shape times dtype must be the span exactly; the product is bounded at every step."""
    n_elements = 1
    for size in entry.shape:
        n_elements *= size
        if n_elements * DTYPE_BITS[entry.dtype] > _MAX_SIZE:
            raise CheckpointError(f"{label} has shape {shown(str(list(entry.shape)))}, beyond 64 bits. {_DAMAGED}")
    nbytes, rest = divmod(n_elements * DTYPE_BITS[entry.dtype], 8)
    if rest or nbytes != entry.end - entry.begin:
        raise CheckpointError(
            f"{label} spans {entry.end - entry.begin} bytes, shape {shown(str(list(entry.shape)))} of {entry.dtype} "
            f"is {nbytes}{f' and {rest} bits' if rest else ''}. {_DAMAGED}"
        )


def _check_layout(entries: list[Entry], data_nbytes: int, where: str) -> None:
    """Tensors fill the data from its first byte to its last: no hole, no overlap, nothing after."""
    at = 0
    for entry in sorted(entries, key=lambda e: (e.begin, e.end)):
        if entry.begin != at:
            kind = "overlaps the tensor before it" if entry.begin < at else "leaves a hole before it"
            raise CheckpointError(
                f"{where}: tensor {shown(entry.name)} begins at byte {entry.begin} of the data, wanted {at}: "
                f"it {kind}. {_DAMAGED}"
            )
        at = entry.end
    if at > data_nbytes:
        last = max(entries, key=lambda e: e.end)
        raise CheckpointError(
            f"{where}: tensor {shown(last.name)} ends at byte {at} of the data, the file has {data_nbytes}. {_AGAIN}"
        )
    if at < data_nbytes:
        raise CheckpointError(
            f"{where}: {data_nbytes - at} bytes follow the last tensor; safetensors' own reader refuses that, too. "
            f"{_DAMAGED}"
        )
