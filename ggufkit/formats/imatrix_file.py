"""Importance files of llama.cpp, both formats, to and from `Imatrix`.

GGUF format, two F32 tensors for every weight tensor NAME (shapes in numpy order, n_mat = number of experts, or 1):
    NAME.in_sum2  (n_mat, n_per_row)  sums of squared activations
    NAME.counts   (n_mat, 1)          tokens that were summed
    general.type = "imatrix", imatrix.datasets [str], imatrix.chunk_count u32, imatrix.chunk_size u32
The legacy format (.dat) is drawn in `imatrix_legacy`.
"""

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
from ggufkit.formats.imatrix import Imatrix, ImatrixEntry
from ggufkit.formats.imatrix_legacy import parse_legacy
from ggufkit.formats.model import KV
from ggufkit.formats.source_file import SourceFile
from ggufkit.formats.tensor import TensorRef

F32Array = NDArray[np.float32]

DATASETS, CHUNK_COUNT, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
SUMS_SUFFIX, COUNTS_SUFFIX = ".in_sum2", ".counts"
MAX_FILE_NBYTES = 4 << 30  # 8x7B has 25 MB
_ALIGNMENT = 32  # of tensors in a file: GGUF's default
_F32 = int(gguf.GGMLQuantizationType.F32)
_DAMAGED = "The file is damaged; make it again with llama-imatrix."


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
    """A whole number, 0 where there is none; it is only reported, never computed with."""
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
