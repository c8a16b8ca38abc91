"""The base's side of a comparison: the model itself, or a baseline file made from it.

Knows what must agree before probabilities may be compared: vocabulary, text, tokens, settings. Does not know figures.
"""

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ggufkit.differences.structure import stored
from ggufkit.errors import InputError
from ggufkit.formats.baseline import Baseline
from ggufkit.formats.files import shown
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_source import read_hparams
from ggufkit.proof.facts import ModelFacts, model_facts
from ggufkit.proof.scores import Base, LiveBase, Scored
from ggufkit.runtime.chunks import whole_chunks
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.scoring import LogitsBlock
from quant import logits

I32Array = NDArray[np.int32]

TOKENS_KEY = "tokenizer.ggml.tokens"
MIN_CHUNKS = 2  # fewer do not show the spread


class Reference(Protocol):
    """Where the base's side comes from."""

    facts: ModelFacts

    def chunks(self, candidate: Engine, content: str, n_ctx: int, most: int | None) -> I32Array:
        """The text as (n_chunk, n_ctx) tokens. Raises InputError where the two cannot be compared on it."""
        ...

    def start(self, chunks: I32Array) -> Base:
        """Get ready to score `chunks`, in that order."""
        ...


class LiveReference:
    """The base model, loaded. Both models read its tokens."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.facts = model_facts(engine.path)

    def chunks(self, candidate: Engine, content: str, n_ctx: int, most: int | None) -> I32Array:
        check_same_vocabulary(self._engine.header, candidate.header)
        return cut_chunks(self._engine.tokenize(content), n_ctx, most)

    def start(self, chunks: I32Array) -> Base:
        return LiveBase(self._engine, chunks)


class StoredReference:
    """A baseline file. Refused for another vocabulary, text, tokenization, chunk length or other settings."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline
        self.facts = facts_of(baseline)

    def chunks(self, candidate: Engine, content: str, n_ctx: int, most: int | None) -> I32Array:
        header, name = self._baseline.header, self._baseline.path.name
        n_vocab = read_hparams(candidate.header).n_vocab
        self._expect("vocabulary", f"{n_vocab} tokens", f"{header.n_vocab} tokens")
        metadata, tokens = header.structure.get("metadata"), candidate.header.metadata.get(TOKENS_KEY)
        if isinstance(metadata, dict) and tokens is not None:
            self._expect("vocabulary", str(stored(tokens)), str(metadata.get(TOKENS_KEY)))
        if (digest := text_digest(content)) != (wanted := header.text.get("sha256", "")):
            self._expect("text (SHA-256)", digest, f"{wanted} ({shown(header.text.get('name', ''))})")
        self._expect("chunk length", str(n_ctx), str(header.n_ctx))
        for key, value in engine_settings(candidate).items():
            self._expect(key, value, header.settings.get(key, ""))
        if most is not None and most < MIN_CHUNKS:
            raise InputError(
                f"{most} chunk is too few to tell how sure a figure is. Use --chunks {MIN_CHUNKS} or more."
            )
        chunks = cut_chunks(candidate.tokenize(content), n_ctx, header.n_chunk)
        if tokens_digest(chunks) != header.text.get("tokens_sha256"):
            raise InputError(
                f"{candidate.path.name} cuts the text into other tokens than {self.facts.file}, which {name} was made "
                "from: another tokenizer. `ggufkit diff` against the model itself says what differs."
            )
        return chunks[:most] if most else chunks

    def start(self, chunks: I32Array) -> Base:
        return _StoredBase(self._baseline)

    def _expect(self, what: str, got: str, wanted: str) -> None:
        if got != wanted:
            raise InputError(
                f"{self._baseline.path.name} was made with another {what}: {wanted}, now {got}. "
                "Use what it was made with, or make it again with `ggufkit baseline`."
            )


class _StoredBase:
    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline

    def score(self, block: LogitsBlock, chunk: int) -> Scored:
        sketch = self._baseline.sketch(chunk, block.positions - self._baseline.header.n_ctx // 2)
        numbers = logits.compare_sketch(sketch, block.logits, block.targets)
        row, top = int(numbers.kld.argmax()), sketch.top
        worst = slice(row, row + 1)
        return Scored(numbers, logits.TopK(top.log_probs[worst], top.ids[worst], top.log_tail[worst]))


def cut_chunks(tokens: I32Array, n_ctx: int, most: int | None) -> I32Array:
    """(n_chunk, n_ctx) whole chunks of `tokens`. Raises InputError for fewer than two."""
    chunks = whole_chunks(tokens, n_ctx, most or None)
    if len(chunks) < MIN_CHUNKS:
        raise InputError(
            f"{len(tokens)} tokens of text make {len(chunks)} chunks of {n_ctx}, at least {MIN_CHUNKS} are needed "
            "to tell how sure a figure is. Use a longer text, a smaller --ctx or more --chunks."
        )
    return chunks


def check_same_vocabulary(base: GgufFile, candidate: GgufFile) -> None:
    """Raise InputError where the models' tokens differ: their probabilities cannot be compared then."""
    a, b = base.value(TOKENS_KEY) or (), candidate.value(TOKENS_KEY) or ()
    problem = ""
    if len(a) != len(b):
        problem = f"{candidate.path.name} has {len(b)} tokens, {base.path.name} has {len(a)}"
    elif (i := first_difference(a, b)) is not None:
        problem = f"token {i} is {b[i]!r} in {candidate.path.name} and {a[i]!r} in {base.path.name}"
    if problem:
        raise InputError(f"{problem}: not the same vocabulary. Compare a model with its own original.")


def first_difference(a: object, b: object) -> int | None:
    """Position of the first item that differs in two sequences of one length."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)  # type: ignore[call-overload]


def text_digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def tokens_digest(chunks: I32Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(chunks, dtype="<i4").tobytes()).hexdigest()


def engine_settings(engine: Engine) -> dict[str, str]:
    """What logits depend on besides model and text. Threads are not among it."""
    settings = engine.settings
    return {
        "engine": f"llama-cpp-python {version('llama-cpp-python')}",
        "device": str(settings.device),
        "micro-batch": str(settings.n_ubatch),
        "kernels": "all" if settings.use_extra_bufts else "plain",
    }


def facts_of(baseline: Baseline) -> ModelFacts:
    """Facts of the model that a baseline was made from. Raises InputError where it names none."""
    try:
        return ModelFacts(**baseline.header.model)
    except TypeError as error:
        raise InputError(f"{baseline.path}: the baseline does not name its model. Make it again.") from error


def open_baseline(path: Path) -> StoredReference:
    return StoredReference(Baseline.open(path))
