"""How far every tensor of a candidate is from the base's, by rows, experts and as a whole. Runs no model.

Streams both in slabs; memory is a few slabs and the sums of one tensor's rows. Does not know why a tensor is far:
`ggufkit.differences.diagnosis` does.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import gguf

from ggufkit.differences.structure import Finding
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.model import Model, ModelTensor
from ggufkit.formats.tensor import TensorRef
from quant._ggml import blocks_are_valid
from quant.difference import RowSums, joined, row_sums
from quant.stats import known

SLAB_WEIGHTS = 1 << 20


@dataclass(frozen=True, slots=True)
class TensorError:
    """One tensor. Errors are root mean squares of the difference relative to the base's values.

    experts  errors by expert, empty for a tensor without
    n_bad    values of the candidate that are not finite; they are left out of the errors
    expected error that its type gives these weights without importance

    None stands for an error that is not known: of weights that are all zero or none of which is finite
    """

    name: str
    shape: tuple[int, ...]
    type_base: str
    type: str
    error: float | None
    experts: tuple[float | None, ...]
    n_bad: int
    expected: float | None = None


class Measured(NamedTuple):
    """A tensor, with the sums of its rows: one RowSums an expert."""

    base: ModelTensor
    candidate: ModelTensor
    sums: tuple[RowSums, ...]

    @property
    def whole(self) -> RowSums:
        return joined(list(self.sums))

    @property
    def n_bad(self) -> int:
        return int(self.whole.n_bad.sum())

    def row(self, expected: float) -> TensorError:
        name, shape = self.candidate.name, self.candidate.shape
        experts = tuple(known(one.error) for one in self.sums) if self.candidate.n_expert > 1 else ()
        types = self.base.dtype, self.candidate.dtype
        return TensorError(name, shape, *types, known(self.whole.error), experts, self.n_bad, known(expected))


def measure_errors(
    base: Model, candidate: Model, threads: int, on_tensor: Callable[[str, int], None] = lambda *_: None
) -> Iterator[Measured]:
    """Sums of every tensor that both have in the same shape, in the candidate's order.

    An output.weight of its own is held against token_embd.weight where that is what the base uses for it.

    on_tensor  called with the name and the weights of what is done
    """
    originals = {t.name: t for t in base.tensors}
    if "token_embd.weight" in originals:
        originals.setdefault("output.weight", originals["token_embd.weight"])
    with ThreadPoolExecutor(threads) as pool:
        for tensor in candidate.tensors:
            original = originals.get(tensor.name)
            if original is not None and original.shape == tensor.shape:
                yield _measure(original, tensor, pool)
                on_tensor(tensor.name, tensor.n_weights)


def unreadable_blocks(path: Path) -> tuple[Finding, ...]:
    """Tensors of the GGUF at `path` with scales or weights that are not finite, by ggml's own check; fast."""
    file = GgufFile.open(path)
    try:
        return tuple(
            Finding("nan", ref.name, f"{ref.name} has weights that are not finite")
            for ref in file.tensors
            if not _blocks_are_valid(ref)
        )
    finally:
        file.close()


def _blocks_are_valid(ref: TensorRef) -> bool:
    step = max(1, SLAB_WEIGHTS // max(1, ref.n_per_row))
    number = int(gguf.GGMLQuantizationType[ref.dtype])
    return all(
        blocks_are_valid(number, ref.raw_rows(start, min(start + step, ref.n_rows)))
        for start in range(0, ref.n_rows, step)
    )


def _measure(base: ModelTensor, candidate: ModelTensor, pool: ThreadPoolExecutor) -> Measured:
    step = max(1, SLAB_WEIGHTS // candidate.n_per_row)
    starts = range(0, candidate.n_rows, step)
    slabs = [(e, start, min(start + step, candidate.n_rows)) for e in range(candidate.n_expert) for start in starts]
    parts = list(pool.map(lambda slab: row_sums(base.rows(*slab), candidate.rows(*slab)), slabs))
    n = len(starts)
    return Measured(base, candidate, tuple(joined(parts[i : i + n]) for i in range(0, len(parts), n)))
