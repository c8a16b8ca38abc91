"""Files for the readers' tests, packed by hand so that they can be wrong in every way a file can be."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
LETTERS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def safetensors_bytes(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A .safetensors file; `header` is bytes, or anything that JSON can hold; `length` is what the file claims."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(begin: int, end: int, *, dtype: Any = "F32", shape: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def write_shard(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header, data = {}, b""
    for name, values in tensors.items():
        raw = values.astype("<f4").tobytes()
        header[name] = tensor(len(data), len(data) + len(raw), shape=list(values.shape))
        data += raw
    path.write_bytes(safetensors_bytes(header, data))


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def kv(key: str | bytes, kind: int, value: Any) -> bytes:
    """An entry; `value` in bytes is taken as it is."""
    raw = (
        value
        if isinstance(value, bytes)
        else string(value)
        if kind == STRING
        else struct.pack("<" + LETTERS[kind], value)
    )
    return string(key) + struct.pack("<I", kind) + raw


def array(key: str, kind: int, values: Sequence[Any], *, count: int | None = None) -> bytes:
    raw = b"".join(string(v) if kind == STRING else struct.pack("<" + LETTERS[kind], v) for v in values)
    return string(key) + struct.pack("<IIQ", ARRAY, kind, len(values) if count is None else count) + raw


def info(name: str | bytes, ne: Sequence[int], offset: int, *, ggml_type: int = 0, n_dims: int | None = None) -> bytes:
    """A tensor's entry; `ne` row length first, as in the file."""
    dims = struct.pack(f"<{len(ne)}Q", *ne)
    return (
        string(name)
        + struct.pack("<I", len(ne) if n_dims is None else n_dims)
        + dims
        + struct.pack("<IQ", ggml_type, offset)
    )


def gguf_bytes(
    entries: Sequence[bytes] = (), infos: Sequence[bytes] = (), data: bytes = b"", *,
    magic: bytes = b"GGUF", version: int = 3, alignment: int = 32,
    n_tensors: int | None = None, n_kv: int | None = None,
) -> bytes:  # fmt: skip
    counts = (len(infos) if n_tensors is None else n_tensors, len(entries) if n_kv is None else n_kv)
    header = magic + struct.pack("<IQQ", version, *counts) + b"".join(entries) + b"".join(infos)
    return header + (bytes(-len(header) % alignment) + data if infos else b"")


def legacy_imatrix(entries: Sequence[tuple[str, int, Sequence[float]]], trailer: bytes = b"") -> bytes:
    out = struct.pack("<i", len(entries))
    for name, ncall, values in entries:
        out += struct.pack("<i", len(name.encode())) + name.encode() + struct.pack("<ii", ncall, len(values))
        out += struct.pack(f"<{len(values)}f", *values)
    return out + trailer
