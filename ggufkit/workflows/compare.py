"""`compare`: two models on the same text, in step; perplexity, KL divergence and agreement with honest intervals.

Knows the order of the steps: open both, check that they speak the same tokens, walk the chunks, make figures.
Stores nothing of the logits. Does not print. Does not judge: that is `ggufkit.workflows.gate`.
"""

import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_source import fingerprint
from ggufkit.formats.text import read_text, shipped_text
from ggufkit.runtime import scoring
from ggufkit.runtime.engine import Device, Engine
from ggufkit.workflows.figures import FigureRow, TokenScores, figures
from ggufkit.workflows.inspect import inspect
from ggufkit.workflows.perplexity import SHIPPED
from ggufkit.workflows.routers import LayerAgreement, RouterWatch
from ggufkit.workflows.scores import Alternative, LiveBase, Spot, Spots, iter_scores

I32Array = NDArray[np.int32]
Update = Callable[[float, float, str], None]

TOKENS_KEY = "tokenizer.ggml.tokens"
N_SHOWN_BEFORE = 48  # tokens of context of a worst passage
MIN_CHUNKS = 2  # fewer tell nothing of the spread


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSettings:
    """What to compare on what.

    text     a UTF-8 file; None takes the shipped prose
    n_ctx    tokens of a chunk; the second half is scored
    chunks   at most so many; None takes the whole text
    routers  whether to compare the experts that both choose, where the models have experts
    """

    base: Path
    candidate: Path
    text: Path | None = None
    n_ctx: int = scoring.N_CTX
    chunks: int | None = None
    threads: int | None = None
    device: Device = Device.AUTO
    routers: bool = True


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A file for the record. `fingerprint`: digest of sizes, headers and a sample of the weights."""

    file: str
    nbytes: int
    fingerprint: str
    arch: str
    type: str
    n_weights: int
    bpw: float


@dataclass(frozen=True, slots=True)
class TextFacts:
    """What was read. `sha256` of the text's bytes."""

    name: str
    sha256: str
    n_ctx: int
    n_chunk: int
    n_token: int


@dataclass(frozen=True, slots=True)
class Passage:
    """A position where the candidate strayed, readable.

    before     text that both models had read, its end
    target     the token that follows
    base, candidate  what each thought would follow: (text, probability), likeliest first
    """

    kld: float
    chunk: int
    position: int
    before: str
    target: str
    base: tuple[tuple[str, float], ...]
    candidate: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """Means of one chunk, and its largest divergence."""

    chunk: int
    nll_base: float
    nll: float
    kld: float
    kld_max: float
    same_top: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was measured; `figures` by name, see `ggufkit.workflows.figures`."""

    base: ModelFacts
    candidate: ModelFacts
    text: TextFacts
    figures: dict[str, FigureRow]
    chunks: tuple[ChunkRow, ...]
    passages: tuple[Passage, ...]
    routers: tuple[LayerAgreement, ...]
    seconds: float
    notices: tuple[str, ...]


def compare(settings: CompareSettings, on_progress: Update = lambda *_: None) -> Comparison:
    """Measure it. Raises GgufError, InputError (other vocabulary, text too short, NaN logits), EngineError."""
    started = time.perf_counter()
    name, content = named_text(settings.text)
    base_facts, candidate_facts = model_facts(settings.base), model_facts(settings.candidate)
    with ExitStack() as stack:
        watch = RouterWatch.of(settings.base, settings.candidate) if settings.routers else RouterWatch.off()
        base = stack.enter_context(open_engine(settings.base, settings, watch.base_callback))
        candidate = stack.enter_context(open_engine(settings.candidate, settings, watch.candidate_callback))
        check_same_vocabulary(base.header, candidate.header)
        chunks = cut_chunks(base.tokenize(content), settings.n_ctx, settings.chunks)
        notices = (*base.notices, *candidate.notices, *_tokenizer_notice(base, candidate, content))
        order = np.arange(len(chunks), dtype=np.int32)
        spots, scored = Spots(), []
        for one in iter_scores(LiveBase(base, chunks), candidate, chunks, order, spots):
            scored.append(one)
            watch.settle()
            on_progress(len(scored), len(chunks), "chunks")
        passages = tuple(readable(spot, chunks[spot.chunk], candidate) for spot in spots.worst())
    scores = TokenScores.of(scored)
    return Comparison(
        base=base_facts,
        candidate=candidate_facts,
        text=text_facts(name, content, chunks),
        figures=figures(scores),
        chunks=chunk_rows(scores),
        passages=passages,
        routers=watch.result(),
        seconds=time.perf_counter() - started,
        notices=tuple(dict.fromkeys(notices)),
    )


def named_text(path: Path | None) -> tuple[str, str]:
    """Name and content of the text to read."""
    return (path.name, read_text(path)) if path else (SHIPPED, shipped_text(SHIPPED))


def open_engine(path: Path, settings: CompareSettings, eval_callback: object = None) -> Engine:
    return scoring.open_for_scoring(
        path, n_ctx=settings.n_ctx, threads=settings.threads, device=settings.device, eval_callback=eval_callback
    )


def cut_chunks(tokens: I32Array, n_ctx: int, most: int | None) -> I32Array:
    """(n_chunk, n_ctx) whole chunks of `tokens`. Raises InputError for fewer than two."""
    n_chunk = min(len(tokens) // n_ctx, most or len(tokens))
    if n_chunk < MIN_CHUNKS:
        raise InputError(
            f"{len(tokens)} tokens of text make {n_chunk} chunks of {n_ctx}, at least {MIN_CHUNKS} are needed "
            "to tell how sure a figure is. Use a longer text, a smaller --ctx or more --chunks."
        )
    return tokens[: n_chunk * n_ctx].reshape(n_chunk, n_ctx)


def check_same_vocabulary(base: GgufFile, candidate: GgufFile) -> None:
    """Raise InputError where the models' tokens differ: their probabilities cannot be compared then."""
    a, b = base.value(TOKENS_KEY), candidate.value(TOKENS_KEY)
    n_a, n_b = len(a or ()), len(b or ())
    if n_a != n_b:
        raise InputError(
            f"{candidate.path.name} has {n_b} tokens, {base.path.name} has {n_a}: not the same vocabulary. "
            "Compare a model with its own original."
        )
    for i, (x, y) in enumerate(zip(a or (), b or (), strict=True)):
        if x != y:
            raise InputError(
                f"token {i} is {y!r} in {candidate.path.name} and {x!r} in {base.path.name}: not the same vocabulary. "
                "Compare a model with its own original."
            )


def model_facts(path: Path) -> ModelFacts:
    """Facts of the file at `path` from its header and a sample of its weights."""
    report = inspect(path)
    file = GgufFile.open(path)
    try:
        digest = fingerprint(file)
    finally:
        file.close()
    return ModelFacts(report.file, report.nbytes, digest, report.arch, report.type, report.n_weights, report.bpw)


def text_facts(name: str, content: str, chunks: I32Array) -> TextFacts:
    n_chunk, n_ctx = chunks.shape
    n_scored = n_ctx - 1 - n_ctx // 2
    return TextFacts(name, hashlib.sha256(content.encode()).hexdigest(), n_ctx, n_chunk, n_chunk * n_scored)


def chunk_rows(scores: TokenScores) -> tuple[ChunkRow, ...]:
    columns = (
        scores.chunk, scores.nll_base.mean(axis=1), scores.nll_cand.mean(axis=1),
        scores.kld.mean(axis=1), scores.kld.max(axis=1), scores.same_top.mean(axis=1),
    )  # fmt: skip
    return tuple(ChunkRow(int(chunk), *map(float, rest)) for chunk, *rest in zip(*columns, strict=True))


def readable(spot: Spot, chunk: I32Array, engine: Engine) -> Passage:
    """`spot` in words; `chunk` (n_ctx,) are the tokens it lies in."""
    vocab = engine.vocab
    before = chunk[max(0, spot.position + 1 - N_SHOWN_BEFORE) : spot.position + 1]

    def words(alternatives: tuple[Alternative, ...]) -> tuple[tuple[str, float], ...]:
        return tuple((_word(engine, one.token), one.p) for one in alternatives)

    return Passage(
        kld=spot.kld,
        chunk=spot.chunk,
        position=spot.position,
        before=vocab.detokenize(before),
        target=_word(engine, spot.target),
        base=words(spot.base),
        candidate=words(spot.candidate),
    )


def _word(engine: Engine, token: int) -> str:
    return engine.vocab.piece(token, special=True).decode("utf-8", errors="replace")


def _tokenizer_notice(base: Engine, candidate: Engine, content: str) -> tuple[str, ...]:
    sample = content[:20_000]
    if np.array_equal(base.tokenize(sample), candidate.tokenize(sample)):
        return ()
    return (
        f"{candidate.path.name} cuts the text into other tokens than {base.path.name}; both were given the latter's. "
        "`ggufkit diff` says what differs.",
    )
