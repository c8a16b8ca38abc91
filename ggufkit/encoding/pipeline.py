"""The pipeline: rows are read, widened, encoded and written, slab by slab.

Rows, or groups of them that come as a whole, are independent: the bytes do not depend on slabs, executors or order.
Does not know why a tensor has its type, nor where the plan came from.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

import quant
from ggufkit.encoding.encoder import F32Array, RowEncoder, U8Array
from ggufkit.encoding.executors import Executor
from ggufkit.encoding.slabs import Slab
from ggufkit.errors import InputError
from ggufkit.recipes.plan import PlannedTensor
from quant.codec import require_finite

F16_MAX = 65504.0
EncodeRows = Callable[[PlannedTensor, int, F32Array, int], U8Array]  # as `RowEncoder.__call__`


class Target(Protocol):
    """Where blocks go: a `PartialFile`, or a file that is thrown away. Called from any thread."""

    def write(self, offset: int, data: U8Array, /) -> None: ...


@dataclass(frozen=True, slots=True)
class SlabWork:
    """What is done with each slab: encode, write, and tell `on_slab`. Called from several threads."""

    encoder: RowEncoder
    out: Target
    allow_nonfinite: bool
    on_slab: Callable[[Slab], None]

    def __call__(self, slab: Slab) -> None:
        self.out.write(slab.offset, encode_slab(slab, self.encoder, allow_nonfinite=self.allow_nonfinite))
        self.on_slab(slab)


def encode_slabs(
    slabs: Iterable[Slab],
    out: Target,
    encoder: RowEncoder,
    executor: Executor,
    *,
    allow_nonfinite: bool = False,
    on_slab: Callable[[Slab], None] = lambda _: None,
) -> None:
    """Encode and write every slab. The first error stops all of it and is raised."""
    executor.run(iter(slabs), SlabWork(encoder, out, allow_nonfinite, on_slab))


def encode_slab(slab: Slab, encode: EncodeRows, *, allow_nonfinite: bool) -> U8Array:
    """Blocks of one slab, padded at the tensor's end (nbytes,).

    Here alone it is decided whether weights must be finite. Raises InputError that names tensor, expert and row of one
    that is not.
    """
    tensor, qtype = slab.planned.tensor, slab.planned.qtype
    try:
        w = tensor.rows(slab.expert, slab.start, slab.stop)
        if not allow_nonfinite:
            require_finite(w)
            if qtype.name == "F16":
                _refuse_overflow(w)
    except quant.errors.NonFiniteError as error:
        where = f"{tensor.name}" + (f" expert {slab.expert}" if tensor.n_expert > 1 else "")
        source = tensor.parts[slab.expert if len(tensor.parts) > 1 else 0]
        raise InputError(
            f"{source.file.path}: {source.name} ({where}): {error} (rows counted from {slab.start}). "
            "The checkpoint is damaged or overflowed in training; pass --allow-nonfinite to encode it all the same."
        ) from error
    if (
        qtype.is_quantized and tensor.dtype == qtype.name and tensor.has_stored_rows
    ):  # encoding their values again need not give them back
        blocks = tensor.raw_rows(slab.expert, slab.start, slab.stop)
    else:
        blocks = encode(slab.planned, slab.expert, w, slab.start)
    return np.pad(blocks.reshape(-1), (0, slab.nbytes - blocks.size))


def _refuse_overflow(w: F32Array) -> None:
    """F16 ends at 65504; beyond it a finite weight would become infinite."""
    if float(np.abs(w).max(initial=0.0)) > F16_MAX:
        row, column = np.unravel_index(int(np.abs(w).argmax()), w.shape)
        raise quant.errors.NonFiniteError(
            f"row {row} column {column} is {w[row, column]:g}, which F16 cannot hold; use --type bf16"
        )
