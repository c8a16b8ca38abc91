"""`WholeModel`: every reading of the corpus runs the whole GGUF, chunk by chunk."""

import hashlib
from collections.abc import Callable, Mapping

from ggufkit.errors import InputError
from ggufkit.fitting.corpus import GROUP_CHUNKS, Corpus, corpus_chunks
from ggufkit.fitting.sources import Observer, OnChunk
from ggufkit.fitting.walks import Shape, plan_walks
from ggufkit.runtime.activations import Activations, ActivationTap
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.library import load
from quant.errors import NonFiniteError


class WholeModel:
    """The `MomentSource` for models that run here as they are.

    ready  called before the file is opened: it may have to be made first
    """

    notes: tuple[str, ...] = ()
    starts_anywhere = True

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.ready: Callable[[], object] = lambda: None
        self.text_sha256 = hashlib.sha256(corpus.text.encode()).hexdigest()

    @property
    def identity(self) -> str:
        corpus = self.corpus
        return f"{self.text_sha256} {corpus.n_tokens} {corpus.n_ctx} {corpus.type_name}"

    def walks(self, shapes: Mapping[str, Shape], max_nbytes: int) -> list[frozenset[str]]:
        return plan_walks(shapes, max_nbytes)

    def observe(self, observer: Observer, on_chunk: OnChunk = lambda *_: None, *, first_group: int = 0) -> int:
        corpus = self.corpus
        self.ready()
        tap = ActivationTap(load(), naming(observer, corpus.model.name), observer.wants)
        with Engine.open(
            corpus.model, n_ctx=corpus.n_ctx, n_batch=corpus.n_ctx, n_outputs=corpus.n_ctx,
            threads=corpus.threads, device=corpus.device, eval_callback=tap.callback,
        ) as engine:  # fmt: skip
            chunks = corpus_chunks(engine.vocab, corpus)
            for index, chunk in enumerate(chunks[first_group * GROUP_CHUNKS :], first_group * GROUP_CHUNKS):
                if index % GROUP_CHUNKS == 0:
                    observer.begin_group(index // GROUP_CHUNKS)
                tap.decode(engine, chunk)
                tap.stop_early()
                on_chunk(index + 1, len(chunks))
        return len(chunks)


def naming(observe: Callable[[Activations], None], model: str) -> Callable[[Activations], None]:
    """The same observer, whose NonFiniteError names the tensor and says what to do, as an InputError."""

    def named(seen: Activations) -> None:
        try:
            observe(seen)
        except NonFiniteError as error:
            raise InputError(
                f"{model}: inputs of {seen.name}: {error}. The model overflows as it is stored; calibrate on a BF16 "
                "or F32 file of it."
            ) from error

    return named
