"""`GradientRelay`: several layers take gradients at once, each on a worker of its own (`LayersAtOnce`).

    stream 4 ──► layer 4 ──pieces──► layer 5 ──pieces──► layer 6 ──► stream 7          there
    gradient 4 ◄── layer 4 ◄──pieces── layer 5 ◄──pieces── layer 6 ◄── gradient 7      and back

The command keeps what comes of a layer as soon as it is complete, in the order in which it would have come to it alone,
so that a run that goes on finds the same. Knows layers, streams and workers. Does not know what gradients are for.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ggufkit.fitting.gradient_layer import F32Array, GradientLayer, I32Array
from ggufkit.fitting.layers_at_once import LayersAtOnce, worker_threads
from ggufkit.fitting.sources.pieces import Pieces
from ggufkit.fitting.sources.stream import StoredStream, Streams
from ggufkit.fitting.token_weights import Stiffness

Source = I32Array | StoredStream | Pieces
Found = tuple[dict[str, Stiffness], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class GradientTask:
    """A layer's part, to be done anywhere.

    inputs     tokens (n_chunk, n_ctx) of layer 0, a stream, or what the layer before gives
    gradients  of what it gives, on the way back; none at the head
    out        what it gives, or the gradients of what went in; None where those are of tokens
    """

    layer: GradientLayer
    inputs: Source
    gradients: StoredStream | Pieces | None
    out: Pieces | None


class GradientRelay:
    """room  asked for bytes of the disk that are nobody's"""

    def __init__(self, at_once: LayersAtOnce, room: Callable[[], int]) -> None:
        self._at_once, self._room = at_once, room

    def ahead(
        self, layers: Sequence[GradientLayer], first: Source, inputs: Streams, tell: Callable[[int], None]
    ) -> int:
        """Take the stream through as many of these layers, which follow each other, as go at once, and keep what each
        gives in `inputs`. Returns how many, 0 where the command alone is as fast.

        first  what goes into the first of them
        tell   is told about every second how many chunks are complete, of all these layers
        """
        window = layers[: self._n(len(layers), inputs)]
        with self._at_once.shared(inputs.folder.parent) as place:
            if place is None or not window:
                return 0
            out = {one.number: place.pieces(one.number + 1, inputs.shape) for one in window}
            tasks = {
                one.number: GradientTask(one, out.get(one.number - 1, first), None, out[one.number]) for one in window
            }
            keep = _in_turn(list(tasks), lambda layer, _: _keep(out[layer], inputs))
            self._at_once.run(take_ahead, tasks, keep, lambda: tell(sum(one.n_there for one in out.values())))
        return len(window)

    def back(
        self, layers: Sequence[GradientLayer], into: Callable[[int], Source], gradients: Streams,
        on_found: Callable[[int, Found], None], tell: Callable[[int], None],
    ) -> int:  # fmt: skip
        """The same for gradients, through layers from the last to the first; what goes into each is known.

        on_found  is called with a layer and what was found of it, in their order, before its gradients are kept
        """
        window = layers[: self._n(len(layers), gradients)]
        with self._at_once.shared(gradients.folder.parent) as place:
            if place is None or not window:
                return 0
            out = {one.number: place.pieces(one.number, gradients.shape) for one in window if one.number}
            tasks: dict[int, GradientTask] = {}
            for one in window:
                known = None if one.is_head else out.get(one.number + 1) or gradients.stored(one.number + 1)
                tasks[one.number] = GradientTask(one, into(one.number), known, out.get(one.number))

            def found(layer: int, what: Found) -> None:
                on_found(layer, what)
                if layer:
                    _keep(out[layer], gradients)
                gradients.drop_behind(layer)

            keep = _in_turn(list(tasks), found)
            self._at_once.run(take_back, tasks, keep, lambda: tell(sum(one.n_there for one in out.values())))
        return len(window)

    def _n(self, wanted: int, streams: Streams) -> int:
        """Layers at once that have room for what they give."""
        n = min(self._at_once.n, wanted, self._room() // max(1, streams.nbytes))
        return n if n > 1 else 0


def _in_turn(layers: Sequence[int], keep: Callable[[int, Any], None]) -> Callable[[int, Any], None]:
    """Has `keep` called in the order of these layers, whatever the order in which they come."""
    came, left = {}, list(layers)

    def on_done(layer: int, what: Any) -> None:
        came[layer] = what
        while left and left[0] in came:
            keep(left[0], came[left.pop(0)])

    return on_done


def _keep(pieces: Pieces, streams: Streams) -> None:
    with streams.writing(pieces.layer) as out:
        for x in pieces.chunks():
            out.write(x)


def take_ahead(task: GradientTask) -> bool:
    """On a worker: take the stream through one layer."""
    assert task.out is not None, "somebody wants what it gives"
    with tempfile.TemporaryDirectory(prefix="ggufkit-") as folder:
        given = task.layer.ahead(Path(folder) / "layer.gguf", _chunks(task.inputs), worker_threads())
        with closing(given):
            for index, y in enumerate(given):
                task.out.write(index, y)
    return True


def take_back(task: GradientTask) -> Found:
    """On a worker: take gradients back through one layer."""
    n_given = 0

    def give(before: F32Array | None) -> None:
        nonlocal n_given
        if task.out is not None and before is not None:
            task.out.write(n_given, before)
        n_given += 1

    with tempfile.TemporaryDirectory(prefix="ggufkit-") as folder:
        gradients = () if task.gradients is None else task.gradients.chunks()
        return task.layer.back(Path(folder) / "layer.gguf", _chunks(task.inputs), gradients, worker_threads(), give)


def _chunks(source: Source) -> Iterable[F32Array | I32Array]:
    return source if isinstance(source, np.ndarray) else source.chunks()
