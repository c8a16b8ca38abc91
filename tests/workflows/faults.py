"""Files with one planted fault each, made from a good one by editing its bytes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

import quant
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_writer import header_bytes
from ggufkit.formats.model import KV
from ggufkit.formats.tensor import TensorRef, widen

Edit = Callable[[TensorRef, np.ndarray], tuple[str, np.ndarray] | np.ndarray | None]

TEMPLATE = "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"


def rewrite(source: Path, target: Path, *, metadata: Mapping[str, Any] | None = None, edit: Edit | None = None) -> Path:
    """A copy of `source`.

    metadata  new values by key; None removes the key
    edit      takes a tensor and its stored rows (n_rows, row_nbytes), gives new rows, or (type, rows), or None
    """
    file = GgufFile.open(source)
    entries = [kv for kv in file.metadata.values() if kv.key not in (metadata or {})]
    entries += [_kv(key, value, file) for key, value in (metadata or {}).items() if value is not None]
    rows, blobs, offset = [], [], 0
    for ref in file.tensors:
        raw = ref.raw_rows(0, ref.n_rows)
        made = edit(ref, raw.copy()) if edit else None
        dtype, data = (ref.dtype, raw) if made is None else made if isinstance(made, tuple) else (ref.dtype, made)
        rows.append((ref.name, ref.shape, int(gguf.GGMLQuantizationType[dtype]), offset))
        blobs.append(data.tobytes() + b"\0" * (-data.nbytes % file.alignment))
        offset += len(blobs[-1])
    file.close()
    target.write_bytes(header_bytes(entries, rows, file.alignment) + b"".join(blobs))
    return target


def _kv(key: str, value: Any, file: GgufFile) -> KV:
    old = file.metadata.get(key)
    if old is not None:
        return KV(key, old.type, value, old.item_type)
    kinds = {str: gguf.GGUFValueType.STRING, bool: gguf.GGUFValueType.BOOL, int: gguf.GGUFValueType.UINT32}
    return KV(key, kinds[type(value)], value)


def only(name: str, change: Callable[[TensorRef, np.ndarray], Any]) -> Edit:
    return lambda ref, raw: change(ref, raw) if ref.name == name else None


def experts_swapped(ref: TensorRef, raw: np.ndarray) -> np.ndarray:
    stack = raw.reshape(ref.shape[0], -1)
    stack[[2, 5]] = stack[[5, 2]]
    return stack


def rope_undone(ref: TensorRef, raw: np.ndarray) -> np.ndarray:
    """Rows of attn_q with 8 heads as Hugging Face has them."""
    order = np.arange(len(raw)).reshape(8, 2, len(raw) // 16).swapaxes(1, 2).ravel()
    return raw[np.argsort(order)]


def rope_twice(ref: TensorRef, raw: np.ndarray) -> np.ndarray:
    return raw[np.arange(len(raw)).reshape(8, 2, len(raw) // 16).swapaxes(1, 2).ravel()]


def rows_swapped(ref: TensorRef, raw: np.ndarray) -> np.ndarray:
    raw[[7, 30]] = raw[[30, 7]]
    return raw


def nan_block(ref: TensorRef, raw: np.ndarray) -> np.ndarray:
    """The scale of row 17's first Q6_K block: a half in the last two of 210 bytes."""
    assert ref.dtype == "Q6_K"
    raw[17, 208:210] = np.frombuffer(np.float16(np.nan).tobytes(), np.uint8)
    return raw


def zeroed(ref: TensorRef, raw: np.ndarray) -> np.ndarray:
    return np.zeros_like(raw)


def scaled(ref: TensorRef, raw: np.ndarray) -> tuple[str, np.ndarray]:
    """All weights times 1.5."""
    return ref.dtype, quant.quantize(1.5 * widen(raw, ref.dtype), quant.quant_type(ref.dtype))


def layer_as_q2_k(ref: TensorRef, raw: np.ndarray) -> tuple[str, np.ndarray] | None:
    if not ref.name.startswith("blk.2.ffn_") or "_exps" not in ref.name:
        return None
    return "Q2_K", quant.quantize(widen(raw, ref.dtype), quant.quant_type("Q2_K"))


def other_layer(source: Path, name: str) -> Edit:
    """blk.0's tensor where blk.1's should be."""
    file = GgufFile.open(source)
    (other,) = (t for t in file.tensors if t.name == name.replace("blk.1", "blk.0"))
    return only(name, lambda ref, raw: other.raw_rows(0, other.n_rows))
