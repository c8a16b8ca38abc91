"""`LayerByLayer`: one layer of the source is run at a time, on the residual stream that lies on the disk.

    tokens ──► layer 0 ──► stream 1 ──► layer 1 ──► stream 2 ──► … ──► last layer and head
                  └─ observer              └─ observer                    └─ observer

The text is read once, however little memory there is: a layer in the source's own types, one chunk, and what the
observer keeps. Layers are best asked for in order; going back costs another reading.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import groupby
from pathlib import Path

import numpy as np
from gguf import GGUF_DEFAULT_ALIGNMENT
from numpy.typing import NDArray

from ggufkit.fitting.corpus import GROUP_CHUNKS, Corpus, text_chunks
from ggufkit.fitting.sources import Observer, OnChunk
from ggufkit.fitting.sources.agreement import check_agreement
from ggufkit.fitting.sources.cut import cut, input_scale
from ggufkit.fitting.sources.layer_run import LayerRun, require_finite
from ggufkit.fitting.sources.scratch import write_as_it_is
from ggufkit.fitting.sources.stream import Streams
from ggufkit.fitting.sources.whole_model import naming
from ggufkit.fitting.walks import Shape, plan_walks
from ggufkit.formats.gguf_writer import header_bytes
from ggufkit.formats.model import Model
from ggufkit.recipes.quantizable import layer_of
from ggufkit.runtime import machine
from ggufkit.runtime.activations import Activations
from ggufkit.runtime.vocabulary import open_vocabulary

F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]


class LayerByLayer:
    """The `MomentSource` for models that need neither fit in memory nor be converted as a whole.

    model    whose layers are run; stays open as long as this is used
    folder   for the streams and the layer in hand: made here, removed by `discard`
    n_layer  of the model
    n_chunk  of the corpus

    Raises EngineError where the model cannot be run layer by layer; its text says why.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, model: Model, corpus: Corpus, folder: Path) -> None:
        self.corpus, self._model, self.folder = corpus, model, folder
        self.text_sha256 = hashlib.sha256(corpus.text.encode()).hexdigest()
        self._threads = corpus.threads or machine.choose_threads().n
        self.n_layer = model.hparams.n_layer
        self._scratch = folder / "layer.gguf"
        self._streams = Streams(folder)
        try:
            self._begin()
        except BaseException:
            self._streams.give_up()
            raise

    def _begin(self) -> None:
        """Tokens, streams that an earlier run left, and whether the model can be cut at all."""
        chunks = corpus_chunks(self._model, self.corpus, self.folder)
        self._ids, local = np.unique(chunks, return_inverse=True)
        self._tokens: I32Array = local.reshape(chunks.shape).astype(np.int32)
        identity = f"{self._model.source.get('fingerprint', '')} {self.identity}"
        self._streams.begin(identity, (*chunks.shape, self._model.hparams.n_embd))
        if not self._streams.layers:
            check_agreement(self._model, chunks[0], self.folder, threads=self._threads, device=self.corpus.device)

    @property
    def n_chunk(self) -> int:
        return len(self._tokens)

    @property
    def identity(self) -> str:
        corpus = self.corpus
        return f"{self.text_sha256} {corpus.n_tokens} {corpus.n_ctx} {corpus.skip_tokens} {corpus.spread} by layer"

    def walks(self, shapes: Mapping[str, Shape], max_nbytes: int) -> list[frozenset[str]]:
        """Layer by layer, what stands behind the last one with it; a layer whose moments do not fit is run again."""
        out: list[frozenset[str]] = []
        for _, names in groupby(sorted(shapes, key=self._layer), key=self._layer):
            out += plan_walks({name: shapes[name] for name in names}, max_nbytes)
        return out

    def observe(self, observer: Observer, on_chunk: OnChunk = lambda *_: None) -> int:
        n_chunk = self.n_chunk
        wanted = [self._layer(t.name) for t in self._model.tensors if observer.wants(t.name)]
        if not wanted:
            return n_chunk
        first = max((layer for layer in self._streams.layers if layer <= min(wanted)), default=0)
        total = (max(wanted) + 1 - first) * n_chunk
        for layer in range(first, max(wanted) + 1):
            self._run(layer, observer, functools.partial(_from, (layer - first) * n_chunk, total, on_chunk))
        return n_chunk

    def names_of(self, layer: int) -> Iterator[str]:
        """Tensors that are seen when that layer is run."""
        return (t.name for t in self._model.tensors if self._layer(t.name) == layer)

    def close(self) -> None:
        """Release the folder. The streams stay, for a run that goes on."""
        self._streams.close()

    def discard(self) -> None:
        """Remove the folder."""
        self._streams.discard()

    def _layer(self, name: str) -> int:
        """Layer that is run to see a tensor's inputs."""
        layer = layer_of(name)
        return layer if layer >= 0 else self.n_layer - 1

    def _run(self, layer: int, observer: Observer, on_chunk: Callable[[int], None]) -> None:
        """Take the stream through one layer, and show it to the observer."""
        streams, is_last = self._streams, layer == self.n_layer - 1
        keeps = not is_last and layer + 1 not in streams.layers
        with self._opened(layer, observer) as run, streams.writing(layer + 1) if keeps else nullcontext() as out:
            for index, x in enumerate(streams.read(layer) if layer else self._tokens):
                if index % GROUP_CHUNKS == 0:
                    observer.begin_group(index // GROUP_CHUNKS)
                (y,) = run(x)
                require_finite(y, layer, self.corpus.model.name)
                if out is not None:
                    out.write(y)
                on_chunk(index + 1)
        streams.drop_before(layer)

    @contextmanager
    def _opened(self, layer: int, observer: Observer) -> Iterator[LayerRun]:
        name_of = functools.partial(_whole_name, layer=layer)
        named = naming(observer, self.corpus.model.name)

        def observe(seen: Activations) -> None:
            named(dataclasses.replace(seen, name=name_of(seen.name)))

        part = cut(self._model, layer, layer + 1, ids=None if layer else self._ids)
        write_as_it_is(self._scratch, part, threads=self._threads)
        with LayerRun(
            self._scratch, n_ctx=self.corpus.n_ctx, threads=self.corpus.threads, device=self.corpus.device,
            observe=observe, wants=lambda name: observer.wants(name_of(name)),
            with_head=layer == self.n_layer - 1, input_scale=input_scale(self._model),
        ) as run:  # fmt: skip
            self._scratch.unlink()  # llama.cpp has mapped it; nothing is left by a run that is killed from here on
            yield run


def _from(done: int, total: int, on_chunk: OnChunk, seen: int) -> None:
    on_chunk(done + seen, total)


def _whole_name(name: str, layer: int) -> str:
    """What a tensor of the file of one layer is called in the whole model."""
    return f"blk.{layer}.{name.removeprefix('blk.0.')}" if name.startswith("blk.0.") else name


def corpus_chunks(model: Model, corpus: Corpus, folder: Path) -> I32Array:
    """(n_chunk, n_ctx) ids of the corpus, by the model's own tokenizer. Raises InputError for a text too short."""
    path = folder / "vocabulary.gguf"
    try:
        path.write_bytes(header_bytes(model.metadata, [], GGUF_DEFAULT_ALIGNMENT))
        with open_vocabulary(path) as vocab:
            return text_chunks(
                vocab, corpus.text, corpus.n_ctx,
                n_tokens=corpus.n_tokens, skip_tokens=corpus.skip_tokens, spread=corpus.spread,
            )  # fmt: skip
    finally:
        path.unlink(missing_ok=True)
