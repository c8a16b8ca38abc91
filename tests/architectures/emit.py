"""What the reference facts record of a file, computed from a `Model`: entries, and a digest of every tensor."""

import hashlib
import json

import gguf
import numpy as np

from ggufkit.formats.gguf_writer import header_bytes
from ggufkit.formats.model import Model, ModelTensor

OUTTYPES = {"f32": 0, "f16": 1, "bf16": 32}  # llama_ftype


def tensor_facts(model: Model, outtype: str) -> dict[str, dict[str, object]]:
    """name → type, ggml's shape, SHA-256 of the little-endian bytes at `outtype`."""
    return {tensor.name: _facts(tensor, outtype) for tensor in model.tensors}


def _facts(tensor: ModelTensor, outtype: str) -> dict[str, object]:
    kind = tensor.dtype if tensor.keep_stored else "F32" if tensor.keep_f32 else outtype.upper()
    qtype = gguf.GGMLQuantizationType[kind]
    digest = hashlib.sha256()
    for expert in range(tensor.n_expert):
        if tensor.keep_stored:
            digest.update(tensor.raw_rows(expert, 0, tensor.n_rows).tobytes())
            continue
        rows = tensor.rows(expert, 0, tensor.n_rows)
        digest.update(np.ascontiguousarray(gguf.quants.quantize(rows, qtype)).tobytes())
    return {"type": qtype.name, "shape": list(reversed(tensor.shape)), "sha256": digest.hexdigest()}


def metadata_facts(model: Model, outtype: str) -> dict[str, dict[str, object]]:
    """key → type and value; long arrays as length, first four and SHA-256 of their JSON."""
    return {kv.key: _value_facts(kv, outtype) for kv in model.metadata}


def _value_facts(kv, outtype):
    types = [kv.type.name] + ([kv.item_type.name] if kv.item_type is not None else [])
    if kv.key == "general.file_type" and kv.value in OUTTYPES.values():
        return {"type": types, "value": OUTTYPES[outtype]}
    value = kv.value
    if types[-1] == "FLOAT32":
        value = [float(np.float32(v)) for v in value] if isinstance(value, list) else float(np.float32(value))
    if isinstance(value, list) and len(value) > 8:
        digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()
        return {"type": types, "len": len(value), "head": value[:4], "sha256": digest}
    return {"type": types, "value": value}


def write_gguf(path, metadata, tensors=()):
    """A GGUF file of F32 tensors (none: a vocabulary alone)."""
    alignment, offset, rows, data = 32, 0, [], []
    for tensor in tensors:
        values = np.concatenate([tensor.rows(i, 0, tensor.n_rows) for i in range(tensor.n_expert)])
        raw = values.astype("<f4").tobytes()
        rows.append((tensor.name, tensor.shape, 0, offset))
        data.append(raw + bytes(-len(raw) % alignment))
        offset += len(data[-1])
    path.write_bytes(header_bytes(metadata, rows, alignment) + b"".join(data))
    return path
