"""The pipeline: rows are read, widened, encoded and written by a few workers that each take the next slab.

Knows a plan, slabs and threads. Does not know why a tensor has its type, nor where the plan came from.
Every worker does all four steps, and there is one worker more than threads, so that a worker that waits for the
disk leaves its core to another. Reads ahead are asked of the kernel. Rows are independent: the bytes do not depend on
slabs, threads or order. Memory is workers x slab_nbytes, nothing else grows.
"""

import threading
from collections.abc import Callable, Container, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.errors import InputError
from ggufkit.formats.imatrix import Imatrix
from ggufkit.formats.model import KV
from ggufkit.recipes.plan import PlannedTensor, QuantPlan

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]

SLAB_WEIGHTS = 2 << 20  # weights of a slab when memory is plenty: 8 MiB of float32, a few tens of milliseconds of work
# bytes a weight while a slab is in work: stored (4 at most), widened (4), encoded (4 at most), encoder scratch (4)
BYTES_PER_WEIGHT = 16
F16_MAX = 65504.0


class Output(Protocol):
    """What blocks are written to, at any offset and from several threads: a `PartialFile`, or a file for the moment."""

    def kept(self, offset: int, nbytes: int) -> bool: ...

    def write(self, offset: int, data: U8Array) -> None: ...


class RowEncoder(Protocol):
    """Turns rows of one expert of one planned tensor into blocks. Called from several threads."""

    def __call__(self, planned: PlannedTensor, expert: int, w: F32Array) -> U8Array: ...


class Fitting(RowEncoder, Protocol):
    """A row encoder that knows more than an importance file: it says what decides its bytes, and what it covers.

    Rows are encoded independently of each other, whatever slabs they come in.
    """

    @property
    def identity(self) -> str: ...

    @property
    def metadata(self) -> tuple[KV, ...]: ...

    @property
    def covers(self) -> Container[str]: ...

    @property
    def held_nbytes(self) -> int: ...

    @property
    def bytes_per_weight(self) -> int: ...


@dataclass(frozen=True, slots=True)
class PlainEncoder:
    """Encodes every expert on its own, each with its own importance where there is any.

    Importance of experts that were hardly seen leans on their layer, but where llama.cpp's exact bytes are wanted.
    """

    imatrix: Imatrix | None = None
    encoder: quant.Encoder = quant.Encoder.GGUFKIT
    allow_nonfinite: bool = False

    def __call__(self, planned: PlannedTensor, expert: int, w: F32Array) -> U8Array:
        importance = None
        if self.imatrix is not None and planned.qtype.is_quantized:
            exact = self.encoder is quant.Encoder.GGML
            of = self.imatrix.importance_of if exact else self.imatrix.shrunk_importance_of
            importance = of(planned.name, expert)
        return quant.quantize(
            w, planned.qtype, importance=importance, encoder=self.encoder, allow_nonfinite=self.allow_nonfinite
        )


class Slab(NamedTuple):
    """Rows [start, stop) of one expert, and where their blocks go in the file; the last one carries the padding."""

    planned: PlannedTensor
    expert: int
    start: int
    stop: int
    offset: int
    nbytes: int


def slabs(plan: QuantPlan, slab_weights: int) -> Iterator[Slab]:
    """All slabs of the plan in file order; none crosses an expert."""
    for planned in plan.tensors:
        tensor = planned.tensor
        row_nbytes = planned.qtype.row_nbytes(tensor.n_per_row)
        step = max(1, slab_weights // tensor.n_per_row)
        for expert in range(tensor.n_expert):
            for start in range(0, tensor.n_rows, step):
                stop = min(start + step, tensor.n_rows)
                offset = plan.data_offset + planned.offset + (expert * tensor.n_rows + start) * row_nbytes
                nbytes = (stop - start) * row_nbytes
                if expert == tensor.n_expert - 1 and stop == tensor.n_rows:
                    nbytes += -planned.nbytes % plan.alignment
                yield Slab(planned, expert, start, stop, offset, nbytes)


def encode_slab(slab: Slab, encode: RowEncoder, *, allow_nonfinite: bool) -> U8Array:
    """Blocks of one slab. Raises InputError that names tensor, expert and row where a weight is not finite."""
    tensor, qtype = slab.planned.tensor, slab.planned.qtype
    try:
        w = tensor.rows(slab.expert, slab.start, slab.stop)
        if qtype.name == "F16" and not allow_nonfinite:
            _refuse_overflow(w)
        if qtype.is_quantized and tensor.dtype == qtype.name:
            return _copied(slab, w, allow_nonfinite)
        return encode(slab.planned, slab.expert, w)
    except quant.errors.NonFiniteError as error:
        where = f"{tensor.name}" + (f" expert {slab.expert}" if tensor.n_expert > 1 else "")
        source = tensor.parts[slab.expert if len(tensor.parts) > 1 else 0]
        raise InputError(
            f"{source.file.path}: {source.name} ({where}): {error} (rows counted from {slab.start}). "
            "The checkpoint is damaged or overflowed in training; pass --allow-nonfinite to encode it all the same."
        ) from error


def _copied(slab: Slab, w: F32Array, allow_nonfinite: bool) -> U8Array:
    """Stored blocks as they are: encoding their values again need not give them back."""
    if not allow_nonfinite and not np.isfinite(w).all():
        row, column = np.argwhere(~np.isfinite(w))[0]
        raise quant.errors.NonFiniteError(f"row {row} column {column} is {w[row, column]}")
    return slab.planned.tensor.raw_rows(slab.expert, slab.start, slab.stop)


def _refuse_overflow(w: F32Array) -> None:
    """F16 ends at 65504; beyond it a finite weight would become infinite."""
    if float(np.abs(w).max(initial=0.0)) > F16_MAX and np.isfinite(w).all():
        row, column = np.unravel_index(int(np.abs(w).argmax()), w.shape)
        raise quant.errors.NonFiniteError(
            f"row {row} column {column} is {w[row, column]:g}, which F16 cannot hold; use --type bf16"
        )


def run(
    plan: QuantPlan,
    out: Output,
    encode: RowEncoder,
    *,
    threads: int,
    slab_weights: int = SLAB_WEIGHTS,
    allow_nonfinite: bool = False,
    on_slab: Callable[[Slab], None] = lambda _: None,
) -> None:
    """Encode and write every slab that `out` does not hold yet. The first error stops all workers and is raised."""
    todo = slabs(plan, slab_weights)
    lock, stop = threading.Lock(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            with lock:
                slab = next(todo, None)
            if slab is None:
                return
            if not out.kept(slab.offset, slab.nbytes):
                blocks = encode_slab(slab, encode, allow_nonfinite=allow_nonfinite).reshape(-1)
                out.write(slab.offset, np.pad(blocks, (0, slab.nbytes - blocks.size)))
            on_slab(slab)

    with ThreadPoolExecutor(max_workers=threads + 1, thread_name_prefix="encode") as pool:
        futures = [pool.submit(work) for _ in range(threads + 1)]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # also on Ctrl-C: workers finish the slab in hand, which is then recorded
        for future in done:
            future.result()


def workers_of(threads: int) -> int:
    """Slabs that are in memory at once."""
    return threads + 1
