"""Importance files added up: sums and counts of the same model, from several texts."""

from collections.abc import Mapping

import numpy as np

from ggufkit.errors import ImatrixError, UsageError
from ggufkit.fitting.coverage import Coverage, coverage_of
from ggufkit.formats.imatrix import Imatrix, ImatrixEntry
from quant.importance import InputSums


def merge(files: list[Imatrix]) -> Imatrix:
    """Sums and counts added, texts joined. Raises ImatrixError where two are of different models."""
    if not files:
        raise UsageError("nothing to merge: name at least one importance file")
    total: dict[str, InputSums] = {}
    for file in files:
        for name, entry in file.entries.items():
            evidence = entry.evidence
            old = total.get(name)
            if old is not None and old.sums.shape != evidence.sums.shape:
                raise ImatrixError(
                    f"importance of {name} has shape {evidence.sums.shape} in one file, {old.sums.shape} in another. "
                    "Merge files of the same model only."
                )
            total[name] = evidence if old is None else old + evidence
    names = tuple(dict.fromkeys(name for file in files for name in file.datasets))
    n_tokens = sum(file.chunk_count * file.chunk_size for file in files)
    size = max(file.chunk_size for file in files)
    return as_imatrix(total, names, n_tokens // size if size else 0, size)


def coverage_in(imatrix: Imatrix) -> Coverage:
    """Coverage that an importance file tells of."""
    return coverage_of({name: entry.evidence.counts for name, entry in imatrix.entries.items()})


def as_imatrix(sums: Mapping[str, InputSums], texts: tuple[str, ...], n_chunk: int, n_ctx: int) -> Imatrix:
    """Sums by tensor name as an importance file of those texts."""
    entries = {
        name: ImatrixEntry(evidence.sums.astype(np.float32), evidence.counts.astype(np.float32))
        for name, evidence in sums.items()
    }
    return Imatrix(datasets=texts, chunk_count=n_chunk, chunk_size=n_ctx, entries=entries)
