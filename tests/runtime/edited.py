"""A GGUF taken apart and put together again without any check, so that it can be well formed and wrong."""

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import gguf

from ggufkit.formats.gguf_cursor import GgufArray
from ggufkit.formats.gguf_reader import GgufFile
from tests.formats import build

Edit = Callable[["Parts"], None]


class Parts:
    """metadata {key: (type, value)}, arrays as (type, (item type, items)); tensors {name: [ne, ggml type, bytes]}."""

    def __init__(self, path: Path) -> None:
        source = GgufFile.open(path)
        self.metadata: dict[str, tuple[int, Any]] = {}
        for key, kv in source.metadata.items():
            held = (int(kv.item_type), list(kv.value)) if isinstance(kv.value, GgufArray) else kv.value
            self.metadata[key] = (int(kv.type), held)
        self.tensors: dict[str, list[Any]] = {
            t.name: [
                list(reversed(t.shape)),
                int(gguf.GGMLQuantizationType[t.dtype]),
                t.file.pread(t.offset, t.nbytes).tobytes(),
            ]
            for t in source.tensors
        }
        source.close()

    def write(self, path: Path) -> Path:
        entries = [
            build.array(key, *value) if kind == build.ARRAY else build.kv(key, kind, value)
            for key, (kind, value) in self.metadata.items()
        ]
        infos, data = [], b""
        for name, (ne, ggml_type, raw) in self.tensors.items():
            infos.append(build.info(name, ne, len(data), ggml_type=ggml_type))
            data += raw + bytes(-len(raw) % 32)
        path.write_bytes(build.gguf_bytes(entries, infos, data))
        return path


def edited(source: Path, target: Path, *edits: Edit) -> Path:
    """`source` with all edits, at `target`."""
    parts = Parts(source)
    for edit in edits:
        edit(parts)
    return parts.write(target)


def key(name: str, kind: int, value: Any) -> Edit:
    return lambda parts: parts.metadata.__setitem__(name, (kind, value))


def items(name: str, change: Callable[[int, Any], Any]) -> Edit:
    """Every item of an array through `change(number, item)`."""

    def edit(parts: Parts) -> None:
        kind, (item, values) = parts.metadata[name]
        parts.metadata[name] = (kind, (item, [change(i, v) for i, v in enumerate(values)]))

    return edit


def as_type(name: str, type_name: str) -> Edit:
    """A tensor under another type, its bytes made up."""

    def edit(parts: Parts) -> None:
        tensor = parts.tensors[name]
        kind = gguf.GGMLQuantizationType[type_name]
        tensor[1:] = [int(kind), b"\x11" * _nbytes(tensor[0], kind)]

    return edit


def more(name: str, ne: list[int], type_name: str) -> Edit:
    """A tensor that was not there."""
    kind = gguf.GGMLQuantizationType[type_name]
    return lambda parts: parts.tensors.__setitem__(name, [ne, int(kind), bytes(_nbytes(ne, kind))])


def first_tokens(n: int) -> Edit:
    """The vocabulary and its embedding cut down to `n` tokens."""

    def edit(parts: Parts) -> None:
        for name in ("tokens", "scores", "token_type"):
            kind, (item, values) = parts.metadata[f"tokenizer.ggml.{name}"]
            parts.metadata[f"tokenizer.ggml.{name}"] = (kind, (item, values[:n]))
        parts.metadata["llama.vocab_size"] = (build.U32, n)
        embedding = parts.tensors["token_embd.weight"]
        embedding[2] = embedding[2][: len(embedding[2]) * n // embedding[0][1]]
        embedding[0] = [embedding[0][0], n]

    return edit


def both(first: Edit, second: Edit) -> Edit:
    """One after the other."""

    def edit(parts: Parts) -> None:
        first(parts)
        second(parts)

    return edit


def _nbytes(ne: list[int], kind: gguf.GGMLQuantizationType) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return prod(ne) // block * size
