"""Chunks of a text, as llama-perplexity and llama-imatrix cut them: `n_ctx` tokens each, what is left over left out.

The first token of each becomes BOS where the model wants one. Source: llama.cpp tools/perplexity, tools/imatrix.
"""

from ggufkit.runtime.batch import I32Array
from ggufkit.runtime.vocabulary import Vocabulary


def whole_chunks(tokens: I32Array, n_ctx: int, most: int | None = None) -> I32Array:
    """The first `most` whole chunks of `tokens` (n,), None all: (n_chunk, n_ctx), a view; none of a shorter text."""
    n_chunk = len(tokens) // n_ctx
    if most is not None:
        n_chunk = min(n_chunk, max(1, most))
    return tokens[: n_chunk * n_ctx].reshape(n_chunk, n_ctx)


def with_bos(chunks: I32Array, vocab: Vocabulary) -> I32Array:
    """A copy of `chunks` (n_chunk, n_ctx) as the model reads them."""
    chunks = chunks.copy()
    if vocab.add_bos:
        chunks[:, 0] = vocab.bos
    return chunks
