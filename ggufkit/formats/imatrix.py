"""`Imatrix`: how strongly each input column of each matrix was used, in llama-quantize's arithmetic.

Knows what the entries mean and whether they belong to a model. Does not know files (`imatrix_file`), and does not
collect, merge or smooth importance.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import ImatrixError
from ggufkit.formats.files import shown
from ggufkit.formats.model import Model, ModelTensor
from quant.importance import InputSums
from quant.importance import importance as shrink

F32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ImatrixEntry:
    """Evidence for one weight tensor: sums (n_mat, n_per_row) float32, counts (n_mat,) float32."""

    sums: F32Array
    counts: F32Array

    @property
    def evidence(self) -> InputSums:
        """The same in float64 and whole tokens, to be added up and shrunk."""
        return InputSums(self.sums.astype(np.float64), np.rint(self.counts).astype(np.int64))

    def importance(self) -> F32Array:
        """Mean squared activation (n_mat, n_per_row); ones where an expert was never used.

        The division is in float32 with the count rounded first. Source: quantize.cpp load_imatrix.
        """
        counts = np.floor(self.counts.astype(np.float64) + 0.5).astype(np.float32)[:, None]
        used = counts > 0
        return np.where(used, self.sums / np.where(used, counts, np.float32(1)), np.float32(1))


@functools.lru_cache(maxsize=4)
def _shrunk(entry: ImatrixEntry) -> F32Array:
    """Shrunk importance of all experts of one tensor, (n_mat, n_per_row); asked for with every slab of it."""
    return shrink(entry.evidence)


@dataclass(frozen=True, slots=True, eq=False)
class Imatrix:
    """Importance for the tensors of one model, by their GGUF names.

    chunk_count, chunk_size  of the text that was read, in chunks and in tokens a chunk; 0 where unknown
    notes                    what a person should know of what was not used
    """

    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int
    entries: Mapping[str, ImatrixEntry]
    notes: tuple[str, ...] = ()

    def importance_of(self, name: str, expert: int = 0) -> F32Array | None:
        """Importance of the columns of one expert (n_per_row,), or None where the tensor has no entry."""
        entry = self.entries.get(name)
        if entry is None:
            return None
        one = ImatrixEntry(entry.sums[expert : expert + 1], entry.counts[expert : expert + 1])
        importance: F32Array = one.importance()[0]
        return importance

    def shrunk_importance_of(self, name: str, expert: int = 0) -> F32Array | None:
        """The same with an expert that was hardly seen shrunk toward its layer; see `quant.importance`."""
        entry = self.entries.get(name)
        if entry is None:
            return None
        one: F32Array = _shrunk(entry)[expert]
        return one

    def check_matches(self, model: Model) -> "Imatrix":
        """The same importance with one row for each expert of `model`, which the legacy format does not tell apart.

        Raises ImatrixError where it belongs to another model: nothing in common, other tensors in the same blocks, or
        sizes that differ. Left out, as llama-quantize does, are an entry of the token embedding that does not fit and,
        with a note, blocks behind the last (a next-token block that the conversion dropped).
        """
        tensors = {t.name: t for t in model.tensors}
        if not tensors.keys() & self.entries.keys():
            raise ImatrixError(
                f"the importance file has no tensor of this {model.hparams.arch} model; it begins with "
                f"{shown(min(self.entries))}. Use the file that was made with this model."
            )
        beyond = [name for name in self.entries if _block(name) >= model.hparams.n_layer]
        fitted = {}
        for name, entry in self.entries.items():
            if name in beyond:
                continue
            entry_fits = _fitted(name, entry, tensors.get(name))
            if entry_fits is not None:
                fitted[name] = entry_fits
        if not beyond:
            return replace(self, entries=fitted)
        note = (
            f"importance of {len(beyond)} tensors in blocks from {model.hparams.n_layer} on is left out, "
            f"{shown(beyond[0])} among them; the model has no such blocks"
        )
        return replace(self, entries=fitted, notes=(*self.notes, note))


def _block(name: str) -> int:
    """Number of the block that a tensor is in; -1 for those outside."""
    match = re.match(r"blk\.(\d{1,6})\.", name)
    return int(match[1]) if match else -1


def _fitted(name: str, entry: ImatrixEntry, tensor: ModelTensor | None) -> ImatrixEntry | None:
    if tensor is None:
        if name.startswith("blk."):
            raise ImatrixError(
                f"the importance file has an entry for {shown(name)}, which this model does not have. "
                "Use the file that was made with this model."
            )
        return None
    n_mat, n_per_row = tensor.n_expert, tensor.n_per_row
    if entry.sums.shape == (n_mat, n_per_row):
        return entry
    if entry.sums.shape == (1, n_mat * n_per_row):
        return ImatrixEntry(entry.sums.reshape(n_mat, n_per_row), np.repeat(entry.counts, n_mat))
    if name.startswith("token_embd."):
        return None
    raise ImatrixError(
        f"importance of {name} has {entry.sums.size} values in {entry.sums.shape[0]} matrices, this model wants "
        f"{n_mat * n_per_row} in {n_mat}. Use the file that was made with this model."
    )
