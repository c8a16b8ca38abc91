"""`Corpus`: what is read while a model is watched, and how it is cut into chunks.

Chunks are llama-imatrix's (`runtime/chunks.py`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError
from ggufkit.formats.text import CALIBRATION_TEXT, read_text, shipped_text
from ggufkit.runtime.chunks import whole_chunks, with_bos
from ggufkit.runtime.loading import Device
from ggufkit.runtime.vocabulary import Vocabulary

I32Array = NDArray[np.int32]
N_CTX = 512
GROUP_CHUNKS = 4  # chunks that are decoded together


@dataclass(frozen=True, slots=True)
class Corpus:
    """The text, how much of it is read, and the GGUF that reads it.

    n_tokens     at most so many tokens, in whole chunks; None reads everything
    skip_tokens  leave out the beginning, in whole chunks: what an earlier run has read
    spread       take the tokens evenly from the whole text, not from its beginning
    type_name    of the model's file where it was made for this, "" where it is the source itself
    is_judged    a part of it is kept to judge on: it must have chunks enough
    """

    model: Path
    text: str
    n_tokens: int | None = None
    n_ctx: int = N_CTX
    threads: int | None = None
    device: Device = Device.AUTO
    type_name: str = ""
    skip_tokens: int = 0
    spread: bool = True
    is_judged: bool = False


def texts(paths: tuple[Path, ...]) -> tuple[str, tuple[str, ...]]:
    """The whole text and the names of its files; names without folders, so that no local path is recorded."""
    if not paths:
        return shipped_text(CALIBRATION_TEXT), (CALIBRATION_TEXT,)
    return "".join(read_text(path) for path in paths), tuple(path.name for path in paths)


def text_chunks(
    vocab: Vocabulary, text: str, n_ctx: int, *, n_tokens: int | None, skip_tokens: int = 0, spread: bool
) -> I32Array:
    """(n_chunk, n_ctx) token ids. Raises InputError where not a single chunk is left."""
    tokens = vocab.tokenize(text)
    left = tokens[skip_tokens - skip_tokens % n_ctx :]
    whole = whole_chunks(left, n_ctx)
    if not len(whole):
        behind = f" behind the {skip_tokens} that were read before" if skip_tokens else ""
        raise InputError(
            f"the calibration text has {len(left)} tokens of this model{behind}, at least {n_ctx} are needed "
            "(20,000 or more are advised). Pass more --text."
        )
    n_chunk = len(whole) if n_tokens is None else max(1, min(len(whole), n_tokens // n_ctx))
    chosen = np.arange(len(whole)) * n_chunk // len(whole)
    first_of_each = np.searchsorted(chosen, np.arange(n_chunk)) if spread else np.arange(n_chunk)
    return with_bos(whole[first_of_each], vocab)


def corpus_chunks(vocab: Vocabulary, corpus: Corpus) -> I32Array:
    """(n_chunk, n_ctx) token ids of the whole corpus, in the order in which it is read. Raises as `text_chunks`, and
    InputError where some of them are to be judged on and they are too few."""
    chunks = text_chunks(
        vocab, corpus.text, corpus.n_ctx,
        n_tokens=corpus.n_tokens, skip_tokens=corpus.skip_tokens, spread=corpus.spread,
    )  # fmt: skip
    if corpus.is_judged:
        require_parts(len(chunks), corpus.n_ctx)
    return chunks


def require_parts(n_chunk: int, n_ctx: int) -> None:
    """Raise InputError where a text has too few chunks for a part to fit on and a part to judge on."""
    if n_chunk <= GROUP_CHUNKS:
        raise InputError(
            f"the calibration text has {n_chunk} chunks of {n_ctx} tokens; fitting needs more than {GROUP_CHUNKS}, a "
            f"part to fit on and a part to judge on. Pass more text, --tokens {(GROUP_CHUNKS + 1) * n_ctx} or more, "
            "or, where types are given, --effort fast."
        )
