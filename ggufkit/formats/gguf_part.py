"""One GGUF file from its header: metadata, and a `TensorRef` for every tensor.

    ┌───────┬──────────┬────────────┬───────┬───────────────┬──────────────────────┬─────────┬──────────────────────┐
    │ GGUF  │ version  │ n_tensors  │ n_kv  │ n_kv × entry  │ n_tensors × tensor   │ padding │ data, each tensor    │
    │ 4 B   │ u32      │ u64        │ u64   │               │                      │         │ padded to alignment  │
    └───────┴──────────┴────────────┴───────┴───────────────┴──────────────────────┴─────────┴──────────────────────┘
    entry   string key, u32 type, value           string  u64 length, UTF-8 bytes
    tensor  string name, u32 n_dims, n_dims × u64 (row length first), u32 ggml type, u64 offset in the data
    array   u32 item type, u64 count, items

Everything is little-endian. Every number is bounded by the bytes that are left before it is used, and nothing but
GgufError leaves this module, whatever the bytes. Arrays are stepped over and decoded when they are asked for, so a
large vocabulary costs little. Rules are those of ggml's gguf.cpp, and a little stricter.
Does not know what a key or a tensor means.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import gguf

from ggufkit.errors import GgufError, InputError
from ggufkit.formats.files import checked_size, shown
from ggufkit.formats.gguf_cursor import Cursor, GgufArray, read_value
from ggufkit.formats.model import KV
from ggufkit.formats.source_file import SourceFile
from ggufkit.formats.tensor import TensorRef

ALIGNMENT_KEY = "general.alignment"
MAX_NAME_NBYTES = 63  # ggml.h GGML_MAX_NAME, with its final NUL
_VERSIONS = (2, 3)  # the same layout; 1 had 32-bit counts
_MAX_TENSORS = 1 << 17
_MAX_ENTRIES = 1 << 16
_MAX_KEY_NBYTES = 65535
_MAX_DIMS = 4
_MAX_ELEMENTS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class GgufPart:
    """One file; tensors are in its order. `data_offset` is where their bytes begin.

    trailing_nbytes  bytes after the last tensor's padding: unused, and llama.cpp reads such files
    """

    file: SourceFile
    nbytes: int
    version: int
    alignment: int
    data_offset: int
    metadata: dict[str, KV]
    tensors: tuple[TensorRef, ...]
    trailing_nbytes: int = 0


def read_part(path: Path) -> GgufPart:
    """Header of a single file, checked against its size. Raises GgufError."""
    nbytes = checked_size(path, GgufError)
    file = SourceFile(path)
    try:
        return _parse(file, nbytes)
    except GgufError:
        file.close()
        raise
    except InputError as error:
        file.close()
        raise GgufError(str(error)) from error


def _parse(file: SourceFile, nbytes: int) -> GgufPart:
    cursor = Cursor(file, nbytes)
    version, n_tensors, n_kv = _read_counts(cursor)
    metadata = _read_metadata(cursor, n_kv)
    alignment = _alignment(cursor, metadata)
    infos = [_read_info(cursor) for _ in range(n_tensors)]
    data_offset = _padded(cursor.pos, alignment)
    tensors = tuple(_located(infos, cursor, alignment, data_offset))
    end = data_offset + sum(_padded(t.nbytes, alignment) for t in tensors)
    return GgufPart(file, nbytes, version, alignment, data_offset, metadata, tensors, max(0, nbytes - end))


def _read_counts(cursor: Cursor) -> tuple[int, int, int]:
    cursor.expect_magic()
    version = cursor.u32("the version")
    if version and not version & 0xFFFF:
        raise cursor.error(
            "the file is big-endian", "ggufkit reads little-endian files; convert it with gguf-convert-endian"
        )
    if version not in _VERSIONS:
        raise cursor.error(
            f"GGUF version {version}, wanted 2 or 3",
            "Convert the model again with a current tool" if version == 1 else "A newer ggufkit may know it",
        )
    n_tensors, n_kv = cursor.u64("the number of tensors"), cursor.u64("the number of metadata entries")
    if n_tensors > _MAX_TENSORS or n_kv > _MAX_ENTRIES:
        raise cursor.error(
            f"the header claims {n_tensors} tensors and {n_kv} metadata entries, "
            f"at most {_MAX_TENSORS} and {_MAX_ENTRIES} are allowed"
        )
    return version, n_tensors, n_kv


def _read_metadata(cursor: Cursor, n_kv: int) -> dict[str, KV]:
    metadata: dict[str, KV] = {}
    for _ in range(n_kv):
        key = cursor.name("a key", _MAX_KEY_NBYTES)
        if not key:
            raise cursor.error("a key is empty")
        if key in metadata:
            raise cursor.error(f"key {shown(key)} appears twice")
        metadata[key] = _read_kv(cursor, key)
    return metadata


def _read_kv(cursor: Cursor, key: str) -> KV:
    kind = cursor.value_type(key)
    if kind is not gguf.GGUFValueType.ARRAY:
        return KV(key, kind, read_value(cursor, kind, key))
    item_type = cursor.value_type(key)
    if item_type is gguf.GGUFValueType.ARRAY:
        raise cursor.error(f"key {shown(key)} holds arrays of arrays, which llama.cpp does not read either")
    return KV(key, kind, GgufArray.read(cursor, item_type, key), item_type)


def _alignment(cursor: Cursor, metadata: dict[str, KV]) -> int:
    kv = metadata.get(ALIGNMENT_KEY)
    if kv is None:
        return int(gguf.GGUF_DEFAULT_ALIGNMENT)
    if kv.type is not gguf.GGUFValueType.UINT32 or kv.value <= 0 or kv.value & (kv.value - 1):
        raise cursor.error(f"{ALIGNMENT_KEY} is {kv.type.name} {shown(str(kv.value))}, wanted UINT32, a power of two")
    return int(kv.value)


@dataclass(frozen=True, slots=True)
class _Info:
    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    offset: int


def _read_info(cursor: Cursor) -> _Info:
    name = cursor.name("the name of a tensor", MAX_NAME_NBYTES)
    n_dims = cursor.u32(f"the shape of {shown(name)}")
    if n_dims > _MAX_DIMS:
        raise cursor.error(f"tensor {shown(name)} has {n_dims} dimensions, at most {_MAX_DIMS} are allowed")
    ne = [cursor.u64(f"the shape of {shown(name)}") for _ in range(n_dims)]
    shape = tuple(reversed(ne))
    if max(ne, default=0) > _MAX_ELEMENTS or prod(ne) > _MAX_ELEMENTS:
        raise cursor.error(f"tensor {shown(name)} has shape {list(shape)}, beyond 63 bits")
    dtype, nbytes = _sized(cursor, name, shape)
    return _Info(name, shape, dtype, nbytes, cursor.u64(f"the offset of {shown(name)}"))


def _sized(cursor: Cursor, name: str, shape: tuple[int, ...]) -> tuple[str, int]:
    number = cursor.u32(f"the type of {shown(name)}")
    try:
        qtype = gguf.GGMLQuantizationType(number)
    except ValueError:
        raise cursor.error(
            f"tensor {shown(name)} has unknown ggml type {number}",
            "It was removed from the format, or is newer than this ggufkit; make the file again with another type",
        ) from None
    block_size, type_size = gguf.GGML_QUANT_SIZES[qtype]
    n_per_row = shape[-1] if shape else 1
    if n_per_row % block_size:
        raise cursor.error(
            f"tensor {shown(name)} has rows of {n_per_row}, {qtype.name} needs a multiple of {block_size}"
        )
    return str(qtype.name), prod(shape) // block_size * type_size


def _located(infos: list[_Info], cursor: Cursor, alignment: int, data_offset: int) -> Iterator[TensorRef]:
    """Tensors lie back to back, each padded to the alignment; the last one's padding may be missing."""
    at, seen = 0, set[str]()
    for info in infos:
        label = f"tensor {shown(info.name)}"
        if info.name in seen:
            raise cursor.error(f"{label} appears twice")
        seen.add(info.name)
        if info.offset != at:
            kind = "overlaps the tensor before it" if info.offset < at else "leaves a gap before it"
            if info.offset % alignment:
                kind = f"is not aligned to {alignment}"
            raise cursor.error(f"{label} begins at byte {info.offset} of the data, wanted {at}: it {kind}")
        end = data_offset + at + info.nbytes
        if end > cursor.nbytes:
            raise cursor.cut_short(f"{label} ends at byte {end}, the file has {cursor.nbytes}")
        yield TensorRef(info.name, info.shape, info.dtype, cursor.file, data_offset + at, info.nbytes)
        at += _padded(info.nbytes, alignment)


def _padded(nbytes: int, alignment: int) -> int:
    return -(-nbytes // alignment) * alignment
