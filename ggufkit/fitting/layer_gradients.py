"""`LayerGradients`: what tokens count for, of a model that is never in memory as a whole.

    tokens ──► layer 0 ──► stream 1 ──► layer 1 ──► stream 2 ──► … ──► stream n     there; what goes in is kept
                                                                          ▼
    squares ◄─ layer 0 ◄─ gradient 1 ◄─ layer 1 ◄─ gradient 2 ◄─ … ◄─── head        and back, with a tape

One layer in the source's own types is in memory, with what is computed of one chunk in it. On one layer after the
other gradients come out as they do through the whole model at once (`token_weights.measure_weights`). A run that ended
repeats at most one layer. Knows a model and the chunks of a text. Does not know moments, types or encoders.
"""

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.fitting.notebook import Notebook
from ggufkit.fitting.sources import OnChunk
from ggufkit.fitting.sources.cut import cut, cut_head, input_scale, whole_name
from ggufkit.fitting.sources.layer_run import LayerRun, outputs
from ggufkit.fitting.sources.layer_tape import LayerTape
from ggufkit.fitting.sources.scratch import write_as_it_is
from ggufkit.fitting.sources.stream import Streams
from ggufkit.fitting.token_weights import MAX_CHUNKS, GradientSums, TokenWeights, drawn_gradient, draws, ended_notes
from ggufkit.fitting.token_weights import picked_chunks as pick
from ggufkit.formats.model import Model
from ggufkit.runtime.loading import Device

F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]

BACK_READINGS = 4  # a layer there and back with its tape takes so much longer than there
HEAD_TOKENS = 128  # of a chunk go through the head at a time: their logits are by far the largest values


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientSettings:
    """Which gradients are taken, and where.

    wants       says by a tensor's name whether its products are looked at
    n_ctx       tokens at the beginning of each chunk that are run
    max_chunks  that are run, evenly spread
    folder      for streams and the layer in hand: made here, removed at the end
    identity    all that decides model and chunks: what lies there of another one is not gone on with
    """

    wants: Callable[[str], bool]
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

    def measure(self, on_chunk: OnChunk = lambda *_: None) -> TokenWeights:
        """Run the layers there and back. Raises EngineError where one does not run, InputError for one that overflows,
        OutputError for a disk without room."""
        self._settings.folder.mkdir(exist_ok=True)
        self._notebook = Notebook(self._settings.folder / "found")  # counts only beside gradients of the same identity
        weights = self._measured(on_chunk)
        shutil.rmtree(self._settings.folder, ignore_errors=True)
        return weights

    def _measured(self, on_chunk: OnChunk) -> TokenWeights:
        settings, shape = self._settings, (*self._chunks.shape, self._model.hparams.n_embd)
        with Streams(settings.folder / "inputs") as inputs, Streams(settings.folder / "gradients") as gradients:
            identity = f"{settings.identity} {self._picked} {settings.n_ctx}"
            inputs.begin(f"{identity} inputs", shape, n_stream=self._n_layer)
            gradients.begin(f"{identity} gradients", shape)
            found, first = self._kept(gradients)
            ahead = [layer for layer in range(self._n_layer) if layer + 1 not in inputs.layers and layer < first]
            told = _Told(on_chunk, len(self._chunks), len(ahead), first + 1)
            for layer in ahead:
                self._ahead(layer, inputs, told)
            for layer in range(first, -1, -1):
                found.append(self._back(layer, inputs, gradients, told))
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

    def _ahead(self, layer: int, inputs: Streams, told: "_Told") -> None:
        """Take the stream through one layer."""
        part = self._part(layer)
        with (
            self._written(part),
            LayerRun(
                self._scratch, n_ctx=self._chunks.shape[1], threads=self._settings.threads, device=Device.CPU,
                input_scale=input_scale(self._model), exact=True,
            ) as run,
            inputs.writing(layer + 1) as out,
        ):  # fmt: skip
            for y in outputs(run, self._into(layer, inputs), layer, "the model"):
                out.write(y)
                told.ahead()

    def _back(self, layer: int, inputs: Streams, gradients: Streams, told: "_Told") -> TokenWeights:
        """Take the gradients through one layer, or begin them at the head, and keep what its products and the layer
        before need of them."""
        is_head, n = layer == self._n_layer, self._chunks.shape[1]
        part, sums = self._part(layer), GradientSums(self._settings.wants)

        def on_output(name: str, gradient: F32Array, experts: I32Array | None) -> None:
            if not (is_head and name.startswith("blk.")):
                sums(whole_name(name, layer), gradient, experts)

        with (
            self._written(part, is_head=is_head),
            LayerTape(
                self._scratch, n_ctx=min(n, HEAD_TOKENS) if is_head else n, threads=self._settings.threads,
                on_output=on_output, takes_rows=layer > 0, with_head=is_head, input_scale=input_scale(self._model),
            ) as tape,
            gradients.writing(layer) if layer else nullcontext() as out,
        ):  # fmt: skip
            for before in self._begun(tape, inputs) if is_head else self._through(layer, tape, inputs, gradients):
                if out is not None and before is not None:
                    out.write(before)
                told.back()
            notes = ended_notes(tape.ended_at)
            found = TokenWeights(sums.stiffness(self._picked, n), self._n_chunk, self._n_ctx, notes)
            self._notebook.save(_label(layer), found.state())  # before the gradients that the next layer is known by
        gradients.drop_behind(layer)
        return found

    def _begun(self, tape: LayerTape, inputs: Streams) -> Iterator[F32Array | None]:
        """Gradients of what goes into the head, chunk by chunk; there each row stands for itself."""
        for x, number in zip(inputs.read(self._n_layer), self._picked, strict=True):
            out, at = np.empty_like(x), draws(int(number), len(x))
            for first in range(0, len(x), HEAD_TOKENS):
                rows = slice(first, first + HEAD_TOKENS)
                tape.forward(x[rows])
                out[rows] = tape.back(drawn_gradient(tape.logits(len(x[rows])), at[rows]))
            yield out

    def _through(self, layer: int, tape: LayerTape, inputs: Streams, gradients: Streams) -> Iterator[F32Array | None]:
        """Gradients of what goes into the layer, chunk by chunk; none of tokens."""
        for x, gradient in zip(self._into(layer, inputs), gradients.read(layer + 1), strict=True):
            tape.forward(x)
            yield tape.back(gradient)

    def _part(self, layer: int) -> Model:
        if layer == self._n_layer:
            return cut_head(self._model)
        return cut(self._model, layer, layer + 1, ids=None if layer else self._ids)

    def _into(self, layer: int, inputs: Streams) -> Iterator[I32Array | F32Array]:
        """What goes into the layer, chunk by chunk: rows of the stream, or tokens as its file counts them."""
        if layer:
            return inputs.read(layer)
        return iter(np.searchsorted(self._ids, self._chunks).astype(np.int32))

    @functools.cached_property
    def _ids(self) -> I32Array:
        return np.unique(self._chunks)

    @contextmanager
    def _written(self, part: Model, *, is_head: bool = False) -> Iterator[None]:
        """The layer as a file, removed when it is done with. A head that is not finite weighs no tokens; whether it may
        be so is for the encoding to say."""
        try:
            write_as_it_is(self._scratch, part, threads=self._settings.threads, allow_nonfinite=is_head)
            yield
        finally:
            self._scratch.unlink(missing_ok=True)


class _Told:
    """Tells how far the work has come, in readings of a chunk by a layer."""

    def __init__(self, on_chunk: OnChunk, n_chunk: int, n_ahead: int, n_back: int) -> None:
        self._on_chunk, self._done = on_chunk, 0
        self._total = n_chunk * (n_ahead + BACK_READINGS * n_back)

    def ahead(self) -> None:
        self._tell(1)

    def back(self) -> None:
        self._tell(BACK_READINGS)

    def _tell(self, n: int) -> None:
        self._done += n
        self._on_chunk(self._done, self._total)


def _label(layer: int) -> str:
    return f"gradients-{layer}"
