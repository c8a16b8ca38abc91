"""`Relay`: several layers read the text at once, each on a worker of its own (`LayersAtOnce`).

    stream 4 ──► layer 4 ──pieces──► layer 5 ──pieces──► layer 6 ──► stream 7

Every layer sees the chunks in the order of the corpus. Workers leave what they gathered in the notebook, where
`Evidence` finds it as if an earlier run had. Knows walks and workers. Does not know what evidence is for.
"""

import itertools
import secrets
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.fitting.corpus import GROUP_CHUNKS
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.layers_at_once import LayersAtOnce, Place, worker_threads
from ggufkit.fitting.notebook import write_arrays
from ggufkit.fitting.reading import Reading
from ggufkit.fitting.sources.layer_by_layer import LayerByLayer
from ggufkit.fitting.sources.layer_run import outputs
from ggufkit.fitting.sources.one_layer import OneLayer
from ggufkit.fitting.sources.pieces import Pieces
from ggufkit.fitting.sources.stream import StoredStream
from ggufkit.fitting.token_weights import TokenWeights
from ggufkit.fitting.walks import walk_nbytes

I32Array = NDArray[np.int32]
Walk = tuple[str, frozenset[str]]  # what the notebook calls it, and its tensors


@dataclass(frozen=True, slots=True)
class LayerTask:
    """A layer's reading of the text, to be done anywhere.

    inputs  tokens (n_chunk, n_ctx) of layer 0, a stream, or what the layer before gives
    out     for the layer behind, None where nobody reads it
    walks   that are gathered, one after the other
    kept    the notebook's folder
    """

    layer: OneLayer
    inputs: I32Array | StoredStream | Pieces
    out: Pieces | None
    walks: tuple[Walk, ...]
    weights: TokenWeights | None
    sums: bool
    n_chunk: int
    kept: Path


class Relay:
    """What `Evidence.ahead` asks: has the workers read the text for a walk and for those behind it."""

    def __init__(self, at_once: LayersAtOnce, source: LayerByLayer, evidence: Evidence) -> None:
        self._at_once, self._source, self._evidence = at_once, source, evidence

    def __call__(self, names: frozenset[str]) -> None:
        """Nothing is done where the command alone is as fast, or workers do not share the notebook's folder."""
        source, kept = self._source, self._evidence.notebook.folder
        if kept is None:
            return
        source.start()
        first = self._layer_of(names)
        layers = range(first, min(first + self._n_at_once(first), source.n_layer))
        is_next = first == 0 or first in source.streams.layers
        if len(layers) < 2 or not is_next or source.n_chunk <= GROUP_CHUNKS:
            return
        with self._at_once.shared(kept) as place:
            if place is not None:
                self._run(layers, *place)

    def _n_at_once(self, first: int) -> int:
        """Layers that are worth reading at once, and have room on the disk for what they give and gather."""
        room, out = self._evidence.notebook.room_nbytes, 0
        for layer in range(first, first + self._at_once.n):
            room -= self._source.streams.nbytes
            room -= sum(walk_nbytes(names, self._evidence.shapes) for _, names in self._walks_of(layer))
            out += room > 0
        return out

    def _walks_of(self, layer: int) -> list[Walk]:
        """Those of a layer that nobody has gathered."""
        evidence = self._evidence
        walks = ((evidence.label(names), names) for names in evidence.walks)
        return [
            (label, names)
            for label, names in walks
            if self._layer_of(names) == layer and not evidence.notebook.has(label)
        ]

    def _run(self, layers: range, folder: Path, secret: str) -> None:
        source = self._source
        read = range(layers.start + 1, min(layers.stop, source.n_layer - 1) + 1)  # the inputs of these layers
        pieces = {n: Place(folder, secret).pieces(n, source.streams.shape) for n in read}
        tasks = {layer: self._task(layer, pieces) for layer in layers}
        self._at_once.run(read_layer, tasks, on_wait=lambda: self._tell(layers, list(pieces.values())))
        if layers.stop < source.n_layer:
            with source.streams.writing(layers.stop) as out:
                for x in pieces[layers.stop].chunks():
                    out.write(x)
            source.streams.drop_before(layers.stop)

    def _task(self, layer: int, pieces: dict[int, Pieces]) -> LayerTask:
        source, evidence = self._source, self._evidence
        inputs: I32Array | StoredStream | Pieces = source.tokens
        if layer in pieces:
            inputs = pieces[layer]
        elif layer:
            inputs = source.streams.stored(layer)
        walks = tuple(self._walks_of(layer))
        wanted = frozenset(itertools.chain.from_iterable(names for _, names in walks))
        weights = None if evidence.weights is None else evidence.weights.only(wanted)
        assert evidence.notebook.folder is not None
        return LayerTask(
            source.one_layer(source.model, layer), inputs, pieces.get(layer + 1), walks, weights, evidence.with_sums,
            source.n_chunk, evidence.notebook.folder.absolute(),
        )  # fmt: skip

    def _tell(self, layers: range, pieces: list[Pieces]) -> None:
        """How far the relay has come, as if its walks were read one after the other."""
        n_chunk, evidence = self._source.n_chunk, self._evidence
        numbers = [i for i, names in enumerate(evidence.walks) if self._layer_of(names) in layers]
        part = sum(one.n_there for one in pieces) / (n_chunk * max(1, len(pieces)))
        walks_done, rest = divmod(part * len(numbers), 1)
        evidence.walk_in_hand = numbers[0] + int(walks_done)
        evidence.on_chunk(int(rest * n_chunk), n_chunk)

    def _layer_of(self, names: frozenset[str]) -> int:
        return self._source.layer_run_for(next(iter(names)))


def read_layer(task: LayerTask) -> bool:
    """On a worker: read the text with one layer, hand on what it gives, and keep what was gathered."""
    threads = worker_threads()
    with tempfile.TemporaryDirectory(prefix="ggufkit-") as folder, ThreadPoolExecutor(threads) as pool:
        walks: list[Walk | None] = list(task.walks) or [None]  # without any, the stream is all that is wanted
        for number, walk in enumerate(walks):
            reading = walk and Reading(walk[1], task.weights, pool.map, moments=True, sums=task.sums)
            _read(task, reading, Path(folder) / "layer.gguf", threads, hands_on=number == 0)
            if walk and reading:
                _keep(task, walk[0], reading)
    return True


def _read(task: LayerTask, reading: Reading | None, path: Path, threads: int, *, hands_on: bool) -> None:
    with task.layer.opened(path, reading, threads=threads, write_threads=threads) as run:
        inputs = task.inputs if isinstance(task.inputs, np.ndarray) else task.inputs.chunks()
        for index, y in enumerate(outputs(run, inputs, task.layer.number, task.layer.model_name, reading)):
            if hands_on and task.out is not None:
                task.out.write(index, y)


def _keep(task: LayerTask, label: str, reading: Reading) -> None:
    """For the notebook."""
    reading.n_chunk = task.n_chunk
    for name, arrays in reading.kept_as(label).items():
        write_arrays(task.kept / f"{name}.npz", task.kept / f"{name}.{secrets.token_hex(4)}", arrays)
