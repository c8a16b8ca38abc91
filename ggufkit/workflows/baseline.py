"""`baseline`: what a model thinks along a text, in a file, for comparisons where both models do not fit in memory.

Knows the order of the steps. Does not know the layout (`ggufkit.formats.baseline`). Does not print.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.architectures.source import open_source
from ggufkit.differences.structure import structure_of
from ggufkit.formats.baseline import BaselineHeader, entries_for, write_baseline
from ggufkit.formats.gguf_source import read_hparams
from ggufkit.formats.outputs import require_place
from ggufkit.progress import OnProgress, Progress, ignore
from ggufkit.proof.facts import ModelFacts, model_facts, named_text
from ggufkit.proof.original import cut_chunks, engine_settings, text_digest, tokens_digest
from ggufkit.runtime import scoring
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.loading import Device
from quant import logits

I32Array = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSettings:
    """What to keep of what; see `CompareSettings`."""

    model: Path
    output: Path
    text: Path | None = None
    n_ctx: int = scoring.N_CTX
    chunks: int | None = None
    threads: int | None = None
    device: Device = Device.AUTO
    force: bool = False


@dataclass(frozen=True, slots=True)
class BaselineReport:
    """What was made. `llama_nbytes`: what llama.cpp's file of the same logits takes."""

    output: str
    nbytes: int
    llama_nbytes: int
    model: ModelFacts
    text: str
    n_ctx: int
    n_chunk: int
    k: int
    m: int
    seconds: float


def make_baseline(settings: BaselineSettings, on_progress: OnProgress = ignore) -> BaselineReport:
    """Make the file. Raises GgufError, InputError, OutputError, EngineError; on any error there is no file."""
    started = time.perf_counter()
    require_place(settings.output, read=[settings.model, settings.text], force=settings.force)
    text_name, content = named_text(settings.text)
    with scoring.open_for_scoring(
        settings.model, n_ctx=settings.n_ctx, threads=settings.threads, device=settings.device
    ) as engine:
        chunks = cut_chunks(engine.tokenize(content), settings.n_ctx, settings.chunks)
        header = _header(engine, chunks, text_name, content)
        sketches = _sketches(engine, chunks, header, lambda done: on_progress(Progress(done, len(chunks), "chunks")))
        write_baseline(settings.output, header, sketches)
    return BaselineReport(
        output=settings.output.name,
        nbytes=settings.output.stat().st_size,
        llama_nbytes=header.n_chunk * header.n_scored * 2 * (2 * ((header.n_vocab + 1) // 2) + 4),
        model=ModelFacts(**header.model),
        text=header.text["name"],
        n_ctx=header.n_ctx,
        n_chunk=header.n_chunk,
        k=header.k,
        m=header.m,
        seconds=time.perf_counter() - started,
    )


def _header(engine: Engine, chunks: I32Array, text_name: str, content: str) -> BaselineHeader:
    n_vocab = read_hparams(engine.header).n_vocab
    n_chunk, n_ctx = chunks.shape
    k, m = entries_for(n_vocab)
    with open_source(engine.path, allow_requantize=True) as model:
        structure = structure_of(model).as_dict()
    return BaselineHeader(
        model=dataclasses.asdict(model_facts(engine.path)),
        text={"name": text_name, "sha256": text_digest(content), "tokens_sha256": tokens_digest(chunks)},
        settings=engine_settings(engine),
        structure=structure,
        n_ctx=n_ctx,
        n_chunk=n_chunk,
        n_scored=n_ctx - 1 - n_ctx // 2,
        n_vocab=n_vocab,
        k=k,
        m=m,
    )


def _sketches(
    engine: Engine, chunks: I32Array, header: BaselineHeader, on_chunk: Callable[[int], None]
) -> Iterator[logits.Sketch]:
    """Sketches block by block, in order. The draws depend on chunk and position alone, so a file can be made again."""
    for block in scoring.iter_logits(engine, chunks.reshape(-1), n_ctx=header.n_ctx):
        with scoring.damage_named(engine.path, block.chunk):
            sketch = logits.sketch(block.logits, block.targets, header.k, _uniforms(block, header))
        yield sketch
        on_chunk(block.chunk + 1)
    engine.require_unchanged()  # before the file has its name


def _uniforms(block: scoring.LogitsBlock, header: BaselineHeader) -> NDArray[np.float64]:
    """Stratified numbers (n, m) in [0, 1)."""
    rng = np.random.default_rng(block.chunk)
    drawn = rng.random((header.n_ctx, header.m))[block.positions]
    return (np.arange(header.m) + drawn) / header.m
