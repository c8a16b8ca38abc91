"""Sums of squares gathered layer by layer, each layer's kept on the disk until the last one is done.

FOLDER/sums-17.npz   NAME.sums (n_expert, n_per_row) float64, NAME.counts (n_expert,) int64, wanted: names
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.fitting.sources.layer_by_layer import LayerByLayer
from ggufkit.fitting.sums import SumsObserver
from ggufkit.formats.atomic import write_atomic
from ggufkit.progress import OnProgress, Progress
from quant.importance import InputSums

_WANTED, _SUMS, _COUNTS = "wanted", ".sums", ".counts"


def gather_sums(source: LayerByLayer, wants: Callable[[str], bool], on_progress: OnProgress) -> dict[str, InputSums]:
    """Sums of the tensors that are wanted, by name. What an earlier run found out about a layer is not done again.

    on_progress  is told of layers
    """
    total: dict[str, InputSums] = {}
    n_layer = source.n_layer
    for layer in range(n_layer):
        names = frozenset(name for name in source.names_of(layer) if wants(name))
        path = source.folder / f"sums-{layer}.npz"
        sums = _read(path, names)
        if sums is None:
            observer = SumsObserver(names.__contains__)
            source.observe(observer, _progress(on_progress, layer, n_layer))
            sums = observer.sums
            _write(path, names, sums)
        total |= sums
    return total


def _progress(on_progress: OnProgress, layer: int, n_layer: int) -> Callable[[int, int], None]:
    def on_chunk(done: int, total: int) -> None:
        on_progress(Progress(layer + done / total, n_layer, "layers"))

    return on_chunk


def _write(path: Path, names: frozenset[str], sums: dict[str, InputSums]) -> None:
    arrays: dict[str, NDArray[Any]] = {_WANTED: np.array(sorted(names))}
    arrays |= {name + _SUMS: one.sums for name, one in sums.items()}
    arrays |= {name + _COUNTS: one.counts for name, one in sums.items()}
    buffer = io.BytesIO()
    save: Any = np.savez  # its stub takes names for options
    save(buffer, **arrays)
    write_atomic(path, [buffer.getvalue()])


def _read(path: Path, names: frozenset[str]) -> dict[str, InputSums] | None:
    """None where the layer's sums are not there, not whole, or not those that are wanted now."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if frozenset(map(str, arrays[_WANTED])) != names:
                return None
            seen = [key.removesuffix(_SUMS) for key in arrays if key.endswith(_SUMS)]
            return {name: InputSums(arrays[name + _SUMS], arrays[name + _COUNTS]) for name in seen}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
