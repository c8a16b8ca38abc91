"""`LayerGradients`: what tokens count for, of a model that is never in memory as a whole.

    tokens ──► layer 0 ──► stream 1 ──► layer 1 ──► stream 2 ──► … ──► stream n     there; what goes in is kept
                                                                          ▼
    squares ◄─ layer 0 ◄─ gradient 1 ◄─ layer 1 ◄─ gradient 2 ◄─ … ◄─── head        and back, with a tape

One layer in the source's own types is in memory, with what is computed of one chunk in it. On one layer after the
other gradients come out as they do through the whole model at once (`token_weights.measure_weights`). Workers take
several layers at once (`gradient_relay`), to the same bits. A run that ended repeats at most the layers in hand. Knows
a model and the chunks of a text. Does not know moments, types or encoders.
"""

import functools
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufkit.fitting.gradient_layer import GradientLayer
from ggufkit.fitting.gradient_relay import GradientRelay
from ggufkit.fitting.notebook import Notebook
from ggufkit.fitting.sources import OnChunk
from ggufkit.fitting.sources.cut import cut, cut_head, input_scale
from ggufkit.fitting.sources.stream import StoredStream, Streams
from ggufkit.fitting.token_weights import MAX_CHUNKS, Stiffness, TokenWeights
from ggufkit.fitting.token_weights import picked_chunks as pick
from ggufkit.formats.model import Model

F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]
Keep = Callable[[Mapping[str, Stiffness]], dict[str, Stiffness]]

BACK_READINGS = 4  # a layer there and back with its tape takes so much longer than there
HEAD_TOKENS = 128  # of a chunk go through the head at a time: their logits are by far the largest values


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientSettings:
    """Which gradients are taken, and where.

    wants       says by a tensor's name whether its products are looked at
    groups      rows of a group by tensor, see `GradientSums`
    keep        is given what was found of a layer, and gives what is to stay in memory of it
    n_ctx       tokens at the beginning of each chunk that are run
    max_chunks  that are run, evenly spread
    folder      for streams and the layer in hand: made here, removed at the end
    identity    all that decides model and chunks: what lies there of another one is not gone on with
    """

    wants: Callable[[str], bool]
    groups: Mapping[str, int] = field(default_factory=dict)
    keep: Keep = dict
    n_ctx: int
    folder: Path
    threads: int
    identity: str = ""
    max_chunks: int = MAX_CHUNKS


class LayerGradients:
    """One measurement over `chunks` (n_chunk, n_ctx) of ids."""

    def __init__(self, model: Model, chunks: I32Array, settings: GradientSettings) -> None:
        self._model, self._settings = model, settings
        self._n_chunk, self._n_ctx = chunks.shape
        self._picked = pick(len(chunks), settings.max_chunks)
        self._chunks = chunks[self._picked, : settings.n_ctx]
        self._n_layer = model.hparams.n_layer  # the head comes behind the layers, with that number
        self._scratch = settings.folder / "layer.gguf"

    def measure(self, on_chunk: OnChunk = lambda *_: None, relay: GradientRelay | None = None) -> TokenWeights:
        """Run the layers there and back; with a relay, several at once. Raises EngineError where one does not run,
        InputError for one that overflows, OutputError for a disk without room."""
        self._settings.folder.mkdir(exist_ok=True)
        self._notebook = Notebook(self._settings.folder / "found")  # counts only beside gradients of the same identity
        weights = self._measured(on_chunk, relay)
        shutil.rmtree(self._settings.folder, ignore_errors=True)
        return weights

    def _measured(self, on_chunk: OnChunk, relay: GradientRelay | None) -> TokenWeights:
        settings, shape = self._settings, (*self._chunks.shape, self._model.hparams.n_embd)
        with Streams(settings.folder / "inputs") as inputs, Streams(settings.folder / "gradients") as gradients:
            identity = f"{settings.identity} {self._picked} {settings.n_ctx}"
            inputs.begin(f"{identity} inputs", shape, n_stream=self._n_layer)
            gradients.begin(f"{identity} gradients", shape)
            found, first = self._kept(gradients)
            ahead = [layer for layer in range(self._n_layer) if layer + 1 not in inputs.layers and layer < first]
            told = _Told(on_chunk, len(self._chunks), len(ahead), first + 1)
            work = _Work(inputs, gradients, told, found)
            while ahead:
                n = self._ahead_there(ahead, work, relay) if relay else 0
                ahead = ahead[n or self._ahead(ahead[0], work) :]
            while first >= 0:
                n = self._back_there(first, work, relay) if relay else 0
                first -= n or self._back(first, work)
        by_name = {name: one for part in reversed(found) for name, one in part.by_name.items()}
        notes = tuple(dict.fromkeys(note for part in found for note in part.notes))
        return TokenWeights(by_name, self._n_chunk, self._n_ctx, notes)

    def _kept(self, gradients: Streams) -> tuple[list[TokenWeights], int]:
        """What an earlier run found out about the last layers, and the layer that is next."""
        found: list[TokenWeights] = []
        for layer in range(self._n_layer, min(gradients.layers, default=self._n_layer + 1) - 1, -1):
            state = self._notebook.load(_label(layer))
            if state is None:
                return [], self._n_layer
            found.append(TokenWeights.restored(state))
        return found, self._n_layer - len(found)

    def _ahead(self, layer: int, work: "_Work") -> int:
        """Take the stream through one layer. 1: the layers done."""
        given = self._layer(layer).ahead(self._scratch, self._chunks_into(layer, work), self._settings.threads)
        with closing(given), work.inputs.writing(layer + 1) as out:
            for y in given:
                out.write(y)
                work.told.ahead(1)
        return 1

    def _ahead_there(self, layers: Sequence[int], work: "_Work", relay: GradientRelay) -> int:
        """The same on workers, of as many as they take at once."""
        follow = [self._layer(layer) for i, layer in enumerate(layers) if layer == layers[0] + i]
        n = relay.ahead(follow, self._into(layers[0], work), work.inputs, work.told.meanwhile_ahead)
        work.told.ahead(n * len(self._chunks))
        return n

    def _back(self, layer: int, work: "_Work") -> int:
        """Take the gradients through one layer, or begin them at the head, and keep what its products and the layer
        before need of them. 1: the layers done."""
        gradients, after = work.gradients, () if layer == self._n_layer else work.gradients.read(layer + 1)
        with gradients.writing(layer) if layer else nullcontext() as out:

            def give(before: F32Array | None) -> None:
                if out is not None and before is not None:
                    out.write(before)
                work.told.back(1)

            inputs, threads = self._chunks_into(layer, work), self._settings.threads
            what = self._layer(layer).back(self._scratch, inputs, after, threads, give)
            work.found.append(self._noted(layer, *what))  # before the gradients that the next layer is known by
        gradients.drop_behind(layer)
        return 1

    def _back_there(self, first: int, work: "_Work", relay: GradientRelay) -> int:
        """The same on workers, of as many as they take at once."""
        n = relay.back(
            [self._layer(layer) for layer in range(first, -1, -1)], lambda layer: self._into(layer, work),
            work.gradients, lambda layer, what: work.found.append(self._noted(layer, *what)), work.told.meanwhile_back,
        )  # fmt: skip
        work.told.back(n * len(self._chunks))
        return n

    def _noted(self, layer: int, by_name: Mapping[str, Stiffness], notes: tuple[str, ...]) -> TokenWeights:
        """What was found of one layer, kept for a run that goes on."""
        found = TokenWeights(self._settings.keep(by_name), self._n_chunk, self._n_ctx, notes)
        self._notebook.save(_label(layer), found.state())
        return found

    def _layer(self, number: int) -> GradientLayer:
        is_head, n_ctx = number == self._n_layer, self._chunks.shape[1]
        part = (
            cut_head(self._model) if is_head
            else cut(self._model, number, number + 1, ids=None if number else self._ids)
        )  # fmt: skip
        return GradientLayer(
            part, number, is_head, self._picked, n_ctx, min(n_ctx, HEAD_TOKENS) if is_head else n_ctx,
            input_scale(self._model), self._settings.wants, self._settings.groups,
        )  # fmt: skip

    def _into(self, layer: int, work: "_Work") -> I32Array | StoredStream:
        """What goes into the layer: rows of the stream, or tokens as its file counts them."""
        return work.inputs.stored(layer) if layer else np.searchsorted(self._ids, self._chunks).astype(np.int32)

    def _chunks_into(self, layer: int, work: "_Work") -> Iterable[I32Array | F32Array]:
        """The same, chunk by chunk."""
        into = self._into(layer, work)
        return into if isinstance(into, np.ndarray) else into.chunks()

    @functools.cached_property
    def _ids(self) -> I32Array:
        return np.unique(self._chunks)


class _Work(NamedTuple):
    """What a measurement has come to: streams on both ways, who is told, and what was found, from the head on."""

    inputs: Streams
    gradients: Streams
    told: "_Told"
    found: list[TokenWeights]


class _Told:
    """Tells how far the work has come, in readings of a chunk by a layer."""

    def __init__(self, on_chunk: OnChunk, n_chunk: int, n_ahead: int, n_back: int) -> None:
        self._on_chunk, self._done = on_chunk, 0
        self._total = n_chunk * (n_ahead + BACK_READINGS * n_back)

    def ahead(self, n: int) -> None:
        """So many chunks went through a layer."""
        self._done += n
        self.meanwhile_ahead(0)

    def back(self, n: int) -> None:
        """So many went back through one."""
        self._done += BACK_READINGS * n
        self.meanwhile_ahead(0)

    def meanwhile_ahead(self, n: int) -> None:
        """So many are on their way, and are told of again when they all are there."""
        self._on_chunk(self._done + n, self._total)

    def meanwhile_back(self, n: int) -> None:
        """The same on the way back."""
        self.meanwhile_ahead(BACK_READINGS * n)


def _label(layer: int) -> str:
    return f"gradients-{layer}"
