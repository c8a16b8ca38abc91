"""A 16-bit original made from a quantized file.

The 16-bit files of these models cannot be had from a package registry. The stand-in is each dequantized weight plus
noise, uniform over the step of its block, as F16: its weights lie on no quantization grid, its activations are those
of a real model. Its perplexity is a little worse than the quantized file's. It is what quantized files are compared
with: the question is how near they stay to *it*.
"""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

F32Array = NDArray[np.float32]
FLOATS = ("F32", "F16", "BF16")
_BLOCK = {"Q6_K": (16, 15), "Q3_K": (16, 15), "Q2_K": (16, 15)}  # columns that share a step, least steps between ends
_DROPPED = ("general.architecture", "general.quantization_version", "general.file_type")


def make(source: Path, output: Path) -> None:
    """Write the stand-in for `source`: same metadata, same tensors, quantized ones as F16."""
    reader = gguf.GGUFReader(source)
    part = output.with_suffix(".part")
    writer = gguf.GGUFWriter(part, reader.fields["general.architecture"].contents())
    copy_metadata(reader, writer)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    rng = np.random.default_rng(0)
    for tensor in reader.tensors:
        w = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        stored = w if tensor.tensor_type.name in FLOATS else off_grid(w, tensor.tensor_type.name, rng)
        writer.add_tensor(tensor.name, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(output)


def copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in _DROPPED:
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), field.types[0])


def off_grid(w: F32Array, type_name: str, rng: np.random.Generator) -> NDArray[np.float16]:
    """`w` with noise of half a step either way. A block's step is the least distance of two of its values, and at most
    its range over the least number of steps of the type."""
    width, n_steps = _BLOCK.get(type_name, (32, 7))
    blocks = w.reshape(-1, width)
    ordered = np.sort(blocks, axis=1)
    gaps = np.diff(ordered, axis=1)
    gaps[gaps <= 1e-9] = np.inf
    least = gaps.min(axis=1)
    step = np.minimum(np.where(np.isfinite(least), least, 0), (ordered[:, -1] - ordered[:, 0]) / n_steps)
    noise = (rng.random(blocks.shape, dtype=np.float32) - 0.5) * step[:, None]
    return (blocks + noise).reshape(w.shape).astype(np.float16)
