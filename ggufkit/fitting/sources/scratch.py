"""Models that are written to be run once and thrown away: every tensor as it is stored, nothing fsynced."""

import dataclasses
import os
from pathlib import Path

import numpy as np
from gguf import GGUF_DEFAULT_ALIGNMENT
from numpy.typing import NDArray

import quant
from ggufkit.encoding.encoder import PlainEncoder
from ggufkit.encoding.executors.threads import Threads
from ggufkit.encoding.pipeline import encode_slabs
from ggufkit.encoding.slabs import SLAB_WEIGHTS, slabs
from ggufkit.errors import OutputError
from ggufkit.formats.gguf_writer import header_bytes
from ggufkit.formats.model import Model, ModelTensor
from ggufkit.formats.shared_place import write_at
from ggufkit.recipes.build import tensor_rows
from ggufkit.recipes.plan import PlannedTensor, QuantPlan

U8Array = NDArray[np.uint8]


def write_as_it_is(path: Path, model: Model, *, threads: int, allow_nonfinite: bool = False) -> None:
    """The GGUF of `model` with its tensors' own types; those without parts are a hole in the file, zeros.

    Raises InputError for weights that are not finite, unless they are allowed, OutputError for a full disk.
    """
    plan = plan_as_it_is(model)
    there = tuple(t for t in plan.tensors if t.tensor.parts)
    try:
        with _Scratch(path, plan.file_nbytes) as out:
            header = header_bytes(plan.metadata, tensor_rows(plan.tensors), plan.alignment)
            out.write(0, np.frombuffer(header, dtype=np.uint8))
            rows = slabs(dataclasses.replace(plan, tensors=there), SLAB_WEIGHTS)
            encode_slabs(rows, out, PlainEncoder(), Threads(threads), allow_nonfinite=allow_nonfinite)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}. Make room on that disk.") from error


def plan_as_it_is(model: Model) -> QuantPlan:
    """Layout of a file in which every tensor keeps its type."""
    planned: list[PlannedTensor] = []
    offset = 0
    for tensor in model.tensors:
        qtype = own_type(tensor)
        nbytes = tensor.n_expert * tensor.n_rows * qtype.row_nbytes(tensor.n_per_row)
        planned.append(PlannedTensor(tensor, qtype, offset, nbytes, "as it is"))
        offset += -(-nbytes // GGUF_DEFAULT_ALIGNMENT) * GGUF_DEFAULT_ALIGNMENT
    metadata = tuple(kv for kv in model.metadata if kv.key != "general.alignment")
    header = header_bytes(metadata, tensor_rows(planned), GGUF_DEFAULT_ALIGNMENT)
    return QuantPlan("as it is", 0, metadata, tuple(planned), GGUF_DEFAULT_ALIGNMENT, len(header))


def own_type(tensor: ModelTensor) -> quant.QuantType:
    """What the tensor is stored as; F32 for those that llama.cpp wants so."""
    return quant.quant_type("F32" if tensor.keep_f32 or len(tensor.shape) == 1 else tensor.dtype)


class _Scratch:
    """What `PartialFile` is to the pipeline, without a journal."""

    def __init__(self, path: Path, nbytes: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o600)
        os.ftruncate(self._fd, nbytes)

    def write(self, offset: int, data: U8Array) -> None:
        write_at(self._fd, offset, data)

    def __enter__(self) -> "_Scratch":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
