"""Importance files of llama.cpp, both formats: how strongly each input column of each matrix was used.

GGUF format, two F32 tensors for every weight tensor NAME (shapes in numpy order, n_mat = number of experts, or 1):
    NAME.in_sum2  (n_mat, n_per_row)  sums of squared activations
    NAME.counts   (n_mat, 1)          tokens that were summed
    general.type = "imatrix", imatrix.datasets [str], imatrix.chunk_count u32, imatrix.chunk_size u32
The legacy format (.dat) is drawn in `imatrix_legacy`.

Knows what the entries mean and llama-quantize's arithmetic. Does not collect, merge or smooth importance.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import ImatrixError, InputError
from ggufkit.formats.atomic import write_atomic
from ggufkit.formats.files import checked_size, shown
from ggufkit.formats.gguf_cursor import MAGIC
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_writer import TensorRow, header_bytes
from ggufkit.formats.imatrix_legacy import parse_legacy
from ggufkit.formats.model import KV, Model, ModelTensor
from ggufkit.formats.tensor import SourceFile, TensorRef
from quant.importance import InputSums
from quant.importance import importance as shrink

F32Array = NDArray[np.float32]

DATASETS, CHUNK_COUNT, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
SUMS_SUFFIX, COUNTS_SUFFIX = ".in_sum2", ".counts"
MAX_FILE_NBYTES = 4 << 30  # 8x7B has 25 MB
_ALIGNMENT = 32  # of tensors in a file: GGUF's default
_F32 = int(gguf.GGMLQuantizationType.F32)
_DAMAGED = "The file is damaged; make it again with llama-imatrix."


@dataclass(frozen=True, slots=True, eq=False)
class ImatrixEntry:
    """Evidence for one weight tensor: sums (n_mat, n_per_row) float32, counts (n_mat,) float32."""

    sums: F32Array
    counts: F32Array

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
    return shrink(InputSums(entry.sums.astype(np.float64), np.rint(entry.counts).astype(np.int64)))


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


def read_imatrix(path: Path) -> Imatrix:
    """Read an importance file of either format. Raises ImatrixError."""
    nbytes = checked_size(path, ImatrixError)
    if nbytes > MAX_FILE_NBYTES:
        raise ImatrixError(f"{path}: {nbytes} bytes, at most {MAX_FILE_NBYTES} are read of an importance file.")
    file = SourceFile(path)
    try:
        head = file.pread(0, min(nbytes, 64)).tobytes()
        found = _read_gguf(path) if head.startswith(MAGIC) else _read_legacy(file.pread(0, nbytes).tobytes(), path)
    except ImatrixError:
        raise
    except InputError as error:
        raise ImatrixError(str(error)) from error
    finally:
        file.close()
    for name, entry in found.entries.items():
        _check_entry(entry, f"{path}: {shown(name)}")
    return found


def write_imatrix(path: Path, imatrix: Imatrix) -> None:
    """Write the GGUF format as llama-imatrix does, in one step. Raises ImatrixError for a bad entry, OutputError."""
    names = sorted(imatrix.entries)
    tensors: list[TensorRow] = []
    chunks: list[bytes] = []
    offset = 0
    for name in names:
        entry = imatrix.entries[name]
        _check_entry(entry, name)
        for suffix, values in ((SUMS_SUFFIX, entry.sums), (COUNTS_SUFFIX, entry.counts[:, None])):
            raw = np.ascontiguousarray(values, dtype="<f4").tobytes()
            shape = values.shape if len(values) > 1 else values.shape[1:]  # ggml drops leading axes of one
            tensors.append((name + suffix, shape, _F32, offset))
            chunks += [raw, bytes(-len(raw) % _ALIGNMENT)]
            offset += len(raw) + len(chunks[-1])
    write_atomic(path, [header_bytes(_metadata(imatrix), tensors, _ALIGNMENT), *chunks])


def _metadata(imatrix: Imatrix) -> list[KV]:
    kind = gguf.GGUFValueType
    return [
        KV("general.type", kind.STRING, "imatrix"),
        KV(DATASETS, kind.ARRAY, imatrix.datasets, kind.STRING),
        KV(CHUNK_COUNT, kind.UINT32, imatrix.chunk_count),
        KV(CHUNK_SIZE, kind.UINT32, imatrix.chunk_size),
    ]


def _check_entry(entry: ImatrixEntry, label: str) -> None:
    sums, counts = entry.sums, entry.counts
    if sums.ndim != 2 or counts.shape != (len(sums),) or not sums.size:
        raise ImatrixError(f"{label}: sums of shape {sums.shape} and counts of shape {counts.shape} do not fit.")
    for what, values in (("sum", sums), ("count", counts)):
        bad = np.argwhere(~(np.isfinite(values) & (values >= 0)))
        if len(bad):
            at = tuple(int(i) for i in bad[0])
            raise ImatrixError(f"{label}: {what} {list(at)} is {values[at]}, wanted a number from 0. {_DAMAGED}")


def _read_gguf(path: Path) -> Imatrix:
    source = GgufFile.open(path)
    try:
        refs = {ref.name: ref for ref in source.tensors}
        names = [n.removesuffix(s) for n in refs for s in (SUMS_SUFFIX, COUNTS_SUFFIX) if n.endswith(s)]
        if not names:
            raise ImatrixError(f"{path} is a GGUF file without importance. Pass the output of llama-imatrix.")
        return Imatrix(
            datasets=_datasets(source),
            chunk_count=_count(source, CHUNK_COUNT),
            chunk_size=_count(source, CHUNK_SIZE),
            entries={name: _read_entry(refs, name, path) for name in dict.fromkeys(names)},
            notes=source.notes,
        )
    finally:
        source.close()


def _read_entry(refs: dict[str, TensorRef], name: str, path: Path) -> ImatrixEntry:
    sums, counts = refs.get(name + SUMS_SUFFIX), refs.get(name + COUNTS_SUFFIX)
    if sums is None or counts is None:
        lacking = SUMS_SUFFIX if sums is None else COUNTS_SUFFIX
        raise ImatrixError(f"{path}: {shown(name)} has no {lacking[1:]}. {_DAMAGED}")
    if sums.dtype != "F32" or counts.dtype != "F32":
        raise ImatrixError(f"{path}: {shown(name)} is stored as {sums.dtype} and {counts.dtype}, wanted F32.")
    n_mat = counts.nbytes // 4
    if not n_mat or sums.nbytes != 4 * n_mat * sums.n_per_row:
        raise ImatrixError(
            f"{path}: {shown(name)} has {n_mat} counts and sums of shape {list(sums.shape)}; "
            f"wanted a count for each row of sums. {_DAMAGED}"
        )
    return ImatrixEntry(_values(sums).reshape(n_mat, -1), _values(counts))


def _values(ref: TensorRef) -> F32Array:
    return ref.file.pread(ref.offset, ref.nbytes).view("<f4")


def _datasets(source: GgufFile) -> tuple[str, ...]:
    """Names of the texts; merged and edited files often lack them, and nothing is computed with them."""
    kv = source.metadata.get(DATASETS)
    return () if kv is None or kv.item_type is not gguf.GGUFValueType.STRING else tuple(kv.value)


def _count(source: GgufFile, key: str) -> int:
    """A whole number, 0 where there is none: said in the output, and computed with nowhere."""
    value = source.value(key)
    return value if type(value) is int and 0 <= value < 2**32 else 0


def _read_legacy(raw: bytes, path: Path) -> Imatrix:
    found = parse_legacy(raw, path)
    entries = {}
    for name, ncall, values in found.rows:
        # llama-quantize takes the values as they are where ncall is not positive
        entries[name] = ImatrixEntry(values[None, :], np.array([max(ncall, 1)], dtype=np.float32))
    notes = (f"{path.name}: {found.trailing_nbytes} bytes follow the end; nothing reads them",)
    datasets = (found.dataset,) if found.dataset else ()
    return Imatrix(datasets, found.chunk_count, 0, entries, notes if found.trailing_nbytes else ())
