"""The header of a GGUF file as bytes: everything before the tensor data. The layout is drawn in `gguf_part`.

Knows encodings and padding. Does not add, reorder or interpret an entry, and writes no file: the same entries and
tensors always give the same bytes. This is the one place where shapes are turned into ggml's order, row length first.
"""

import dataclasses
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gguf
import numpy as np

from ggufkit.errors import GgufError
from ggufkit.formats.gguf_cursor import MAGIC, NUMBERS, PACKERS, GgufArray
from ggufkit.formats.gguf_part import ALIGNMENT_KEY, MAX_NAME_NBYTES
from ggufkit.formats.model import KV

VERSION = 3
_T = gguf.GGUFValueType
TensorRow = tuple[str, tuple[int, ...], int, int]  # name, shape in numpy order, ggml type, offset in the data


def header_bytes(metadata: Sequence[KV], tensors: Sequence[TensorRow], alignment: int) -> bytes:
    """Header of a GGUF version 3 file, padded with zeros to `alignment` bytes.

    metadata  in the order that is written; it holds general.alignment itself where that is not 32
    tensors   name, shape in numpy order, ggml type, offset from the start of the data in bytes
    Raises GgufError for a value that its type cannot hold, and for names that are too long or not unique.
    """
    stated = next((kv.value for kv in metadata if kv.key == ALIGNMENT_KEY), gguf.GGUF_DEFAULT_ALIGNMENT)
    if stated != alignment:
        raise GgufError(f"{ALIGNMENT_KEY} says {stated}, the data is aligned to {alignment} bytes.")
    _check_unique([kv.key for kv in metadata], "key")
    _check_unique([name for name, *_ in tensors], "tensor")
    out = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    out += [_entry(kv) for kv in metadata]
    out += [_tensor(*row) for row in tensors]
    header = b"".join(out)
    return header + bytes(-len(header) % alignment)


def packed(kv: KV) -> KV:
    """The same entry; an array of strings with its bytes, which then are not made again. Raises GgufError."""
    if kv.type is not _T.ARRAY or kv.item_type is not _T.STRING or isinstance(kv.value, GgufArray):
        return kv
    with _named(kv):
        return dataclasses.replace(kv, value=GgufArray.of_strings(kv.value, _strings(kv.value), kv.key))


def _check_unique(names: list[str], what: str) -> None:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise GgufError(f"{what} {twice} would be written twice.")


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _strings(texts: Iterable[str]) -> bytes:
    pack = struct.Struct("<Q").pack
    return b"".join([part for raw in map(str.encode, texts) for part in (pack(len(raw)), raw)])


@contextmanager
def _named(kv: KV) -> Iterator[None]:
    try:
        yield
    except (struct.error, UnicodeEncodeError, OverflowError, AttributeError, TypeError, ValueError) as error:
        raise GgufError(f"metadata {kv.key} cannot be written as {kv.type.name}: {error}.") from error


def _entry(kv: KV) -> bytes:
    with _named(kv):
        return _string(kv.key) + struct.pack("<I", kv.type) + _value(kv)


def _value(kv: KV) -> bytes:
    if kv.type is _T.STRING:
        return _string(kv.value)
    if kv.type is not _T.ARRAY:
        return PACKERS[kv.type].pack(kv.value)
    if kv.item_type is None or kv.item_type is _T.ARRAY:
        raise TypeError(f"items of type {kv.item_type}")
    return struct.pack("<IQ", kv.item_type, len(kv.value)) + _items(kv.item_type, kv.value)


def _items(item_type: gguf.GGUFValueType, values: Sequence[Any]) -> bytes:
    if isinstance(values, GgufArray) and values.item_type is item_type:
        return values.raw
    if item_type is _T.STRING:
        return _strings(values)
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values, dtype=NUMBERS[item_type][1]).tobytes()
    return struct.pack(f"<{len(values)}{NUMBERS[item_type][0]}", *values)


def _tensor(name: str, shape: tuple[int, ...], ggml_type: int, offset: int) -> bytes:
    if len(name.encode()) > MAX_NAME_NBYTES:
        raise GgufError(f"tensor {name} has a name of {len(name.encode())} bytes, GGUF allows {MAX_NAME_NBYTES}.")
    ne = shape[::-1]
    return _string(name) + struct.pack(f"<I{len(ne)}QIQ", len(ne), *ne, ggml_type, offset)
