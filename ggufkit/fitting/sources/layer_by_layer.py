"""`LayerByLayer`: one layer of the source is run at a time, on the residual stream that lies on the disk.

    tokens ──► layer 0 ──► stream 1 ──► layer 1 ──► stream 2 ──► … ──► last layer and head
                  └─ observer              └─ observer                    └─ observer

The text is read once, however little memory there is: a layer in the source's own types, one chunk, and what the
observer keeps. Layers are best asked for in order; going back costs another reading.

The stream may go on through the layers as they are `stored` in the output instead, so that each layer is shown what it
will be given there:

    stream 1 ──► layer 1 ─ observer
       └─────► layer 1 as stored ──► stream 2
"""

import functools
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path

import numpy as np
from gguf import GGUF_DEFAULT_ALIGNMENT
from numpy.typing import NDArray

from ggufkit.fitting.corpus import Corpus, corpus_chunks
from ggufkit.fitting.sources import Observer, OnChunk
from ggufkit.fitting.sources.agreement import check_agreement
from ggufkit.fitting.sources.cut import cut, input_scale
from ggufkit.fitting.sources.layer_run import LayerRun, outputs
from ggufkit.fitting.sources.one_layer import OneLayer
from ggufkit.fitting.sources.stream import Streams
from ggufkit.fitting.walks import Shape, plan_layer_walks
from ggufkit.formats.gguf_writer import header_bytes
from ggufkit.formats.model import Model
from ggufkit.recipes.quantizable import layer_of
from ggufkit.runtime import machine
from ggufkit.runtime.vocabulary import open_vocabulary

F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]


class Stream(StrEnum):
    """What goes into a layer: what the layers before it give in the source, or as they are stored in the output."""

    ORIGINAL = "original"
    STORED = "stored"


class LayerByLayer:
    """The `MomentSource` for models that need neither fit in memory nor be converted as a whole.

    model    whose layers are run; stays open as long as this is used
    stored   the same model as it is being encoded: a layer must be complete before a later one is asked for
    folder   for the streams and the layer in hand: made here, removed by `discard`
    n_layer  of the model; threads  that run it
    """

    notes: tuple[str, ...] = ()

    starts_anywhere = False

    def __init__(self, model: Model, corpus: Corpus, folder: Path, *, stream: Stream = Stream.ORIGINAL) -> None:
        self.corpus, self._model, self.folder, self._stream = corpus, model, folder, stream
        self.stored: Model | None = None
        self.text_sha256 = hashlib.sha256(corpus.text.encode()).hexdigest()
        self.threads = corpus.threads or machine.choose_threads().n
        self.n_layer = model.hparams.n_layer
        self._scratch = folder / "layer.gguf"
        self._streams: Streams | None = None
        self._ids: I32Array = np.empty(0, dtype=np.int32)
        self._tokens: I32Array = np.empty((0, 0), dtype=np.int32)

    def start(self) -> None:
        """Read the text, find what an earlier run left, and see whether the model can be cut; `observe` does it where
        nobody has. Raises CutError where it cannot: its text says why."""
        if self._streams is not None:
            return
        streams = Streams(self.folder)
        try:
            chunks = chunks_of(self._model, self.corpus, self.folder)
            self._ids, local = np.unique(chunks, return_inverse=True)
            self._tokens = local.reshape(chunks.shape).astype(np.int32)
            identity = f"{self._model.source.get('fingerprint', '')} {self.identity}"
            streams.begin(identity, (*chunks.shape, self._model.hparams.n_embd))
            if not streams.layers:
                check_agreement(self._model, chunks[0], self.folder, threads=self.threads, device=self.corpus.device)
        except BaseException:
            streams.give_up()
            raise
        self._streams = streams

    @property
    def chunks(self) -> I32Array:
        """(n_chunk, n_ctx) ids of the corpus, once it is started."""
        chunks: I32Array = self._ids[self._tokens]
        return chunks

    @property
    def n_chunk(self) -> int:
        """Chunks of the corpus, once it is started."""
        return len(self._tokens)

    @property
    def identity(self) -> str:
        corpus = self.corpus
        text = f"{self.text_sha256} {corpus.n_tokens} {corpus.n_ctx} {corpus.skip_tokens} {corpus.spread} by layer"
        return f"{text} as stored" if self._stream is Stream.STORED else text

    def walks(self, shapes: Mapping[str, Shape], max_nbytes: int) -> list[frozenset[str]]:
        return plan_layer_walks(shapes, max_nbytes)

    def observe(self, observer: Observer, on_chunk: OnChunk = lambda *_: None, *, first_group: int = 0) -> int:
        self.start()
        wanted = {self.layer_run_for(t.name) for t in self._model.tensors if observer.wants(t.name)}
        if not wanted:
            return self.n_chunk
        first = max((layer for layer in self.streams.layers if layer <= min(wanted)), default=0)
        self.streams.drop_behind(first + 1)  # a run that goes back comes to the later layers again
        steps = list(self._steps(wanted, first))
        for index, (model, layer, shows, keeps) in enumerate(steps):
            progress = functools.partial(_from, index * self.n_chunk, len(steps) * self.n_chunk, on_chunk)
            self._run(model, layer, observer if shows else None, keeps, progress)
        return self.n_chunk

    def _steps(self, wanted: set[int], first: int) -> Iterator[tuple[Model, int, bool, bool]]:
        """What is run to show those layers: model, layer, whether it is shown, and whether its output is kept."""
        there, last = self.streams.layers, max(wanted)
        for layer in range(first, last + 1):
            shows, keeps = layer in wanted, layer < self.n_layer - 1 and layer + 1 not in there
            if self._stream is Stream.ORIGINAL:
                yield self._model, layer, shows, keeps
                continue
            if shows:
                yield self._model, layer, True, False
            if layer < last:
                assert self.stored is not None, "no layers are stored yet"
                yield self.stored, layer, False, keeps

    def names_of(self, layer: int) -> Iterator[str]:
        """Tensors that are seen when that layer is run."""
        return (t.name for t in self._model.tensors if self.layer_run_for(t.name) == layer)

    def close(self) -> None:
        """Release the folder. The streams stay, for a run that goes on."""
        if self._streams is not None:
            self._streams.close()

    def discard(self) -> None:
        """Remove the folder, where there is one."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def model(self) -> Model:
        """Whose layers are run."""
        return self._model

    @property
    def tokens(self) -> I32Array:
        """(n_chunk, n_ctx) what goes into layer 0 when it is run alone: numbers of rows of its own vocabulary."""
        return self._tokens

    @property
    def streams(self) -> Streams:
        """What goes into the layers that are next, once it is started."""
        assert self._streams is not None, "not started"
        return self._streams

    def layer_run_for(self, name: str) -> int:
        """Layer that is run to see a tensor's inputs."""
        layer = layer_of(name)
        return layer if layer >= 0 else self.n_layer - 1

    def _run(
        self, model: Model, layer: int, observer: Observer | None, keeps: bool, on_chunk: Callable[[int], None]
    ) -> None:
        """Take the stream through one layer."""
        streams = self.streams
        streams.drop_before(layer)  # two lie there at once: what goes in, and what comes out
        with (
            self._opened(model, layer, observer) as run,
            streams.writing(layer + 1) if keeps else nullcontext() as out,
        ):
            inputs = streams.read(layer) if layer else self._tokens
            for done, y in enumerate(outputs(run, inputs, layer, self.corpus.model.name, observer), start=1):
                if out is not None:
                    out.write(y)
                on_chunk(done)

    def _opened(self, model: Model, layer: int, observer: Observer | None) -> AbstractContextManager[LayerRun]:
        return self.one_layer(model, layer).opened(
            self._scratch, observer, threads=self.corpus.threads, write_threads=self.threads
        )

    def one_layer(self, model: Model, layer: int) -> OneLayer:
        """That layer of the source, or of another model of its family, to be run here or elsewhere."""
        part = cut(model, layer, layer + 1, ids=None if layer else self._ids)
        return OneLayer(
            part, layer, is_last=layer == self.n_layer - 1, n_ctx=self.corpus.n_ctx, device=self.corpus.device,
            input_scale=input_scale(model), model_name=self.corpus.model.name,
        )  # fmt: skip


def _from(done: int, total: int, on_chunk: OnChunk, seen: int) -> None:
    on_chunk(done + seen, total)


def chunks_of(model: Model, corpus: Corpus, folder: Path) -> I32Array:
    """(n_chunk, n_ctx) ids of the corpus, by the model's own tokenizer. Raises InputError for a text too short."""
    path = folder / "vocabulary.gguf"
    try:
        path.write_bytes(header_bytes(model.metadata, [], GGUF_DEFAULT_ALIGNMENT))
        with open_vocabulary(path) as vocab:
            return corpus_chunks(vocab, corpus)
    finally:
        path.unlink(missing_ok=True)
