"""Scores of a text under a model: logits chunk by chunk as llama-perplexity walks them, and perplexity from them.

    chunk    | n_ctx tokens; the first becomes BOS where the model wants one |
    scored   |            | tokens n_ctx/2 + 1 … n_ctx - 1, each from all before it |

A decode takes a part of a chunk, or several short chunks, one sequence each. Logits are handed out as views and never
kept: memory stays at one decode's. Does not know files of text, KL divergence or reports.
Source: llama.cpp tools/perplexity.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp, sqrt
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError, UsageError
from ggufkit.formats.tensor import F32Array
from ggufkit.runtime.batch import I32Array
from ggufkit.runtime.chunks import whole_chunks, with_bos
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.loading import Device, OnFraction
from ggufkit.runtime.memory import Decoding
from quant import logits
from quant.errors import NonFiniteError

N_CTX = 512  # llama-perplexity's default, so that figures can be held against its
N_STEP = 256  # tokens of one decode; more are no faster, but hold more rows of logits


class LogitsError(InputError):
    """A model gave logits that are not finite."""


class LogitsBlock(NamedTuple):
    """Logits of some scored positions of one chunk.

    chunk      number of the chunk
    positions  (n,) in the chunk, of the tokens the logits were computed from
    logits     (n, n_vocab) float32, a view that the next block overwrites
    targets    (n,) ids of the tokens that really follow
    """

    chunk: int
    positions: I32Array
    logits: F32Array
    targets: I32Array


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Perplexity of a text.

    ppl        exp of the mean negative log-likelihood
    ppl_error  one standard error as llama-perplexity states it: tokens taken as independent
    nll        (n_chunk, n_scored) float64, nats a token
    seconds    spent computing, loading not counted
    """

    ppl: float
    ppl_error: float
    nll: NDArray[np.float64]
    n_ctx: int
    seconds: float

    @property
    def n_chunk(self) -> int:
        return int(self.nll.shape[0])

    @property
    def n_token(self) -> int:
        """Tokens scored."""
        return int(self.nll.size)

    @property
    def tokens_per_second(self) -> float:
        """Tokens computed a second, context included."""
        return self.n_chunk * self.n_ctx / self.seconds if self.seconds else 0.0


def open_for_scoring(
    path: Path,
    *,
    n_ctx: int = N_CTX,
    threads: int | None = None,
    device: Device = Device.AUTO,
    use_extra_bufts: bool | None = None,
    on_load: OnFraction | None = None,
    eval_callback: Any = None,
) -> Engine:
    """An engine for chunks of `n_ctx` tokens, decoded as `decoding` says. `eval_callback`: see `Engine.open`."""
    if n_ctx < 8:
        raise UsageError(f"perplexity needs a context of at least 8 tokens, got {n_ctx}")
    shape = decoding(n_ctx)
    return Engine.open(
        path,
        n_ctx=n_ctx,
        n_batch=shape.n_batch,
        n_ubatch=shape.n_ubatch,
        n_seq=shape.n_seq,
        n_outputs=shape.n_outputs,
        threads=threads,
        device=device,
        use_extra_bufts=use_extra_bufts,
        on_load=on_load,
        eval_callback=eval_callback,
    )


def decoding(n_ctx: int) -> Decoding:
    """How chunks of `n_ctx` are decoded: whole ones while they are short, else one in parts of at most half of it.

    The second half of a chunk is scored, and no more rows are asked for.
    """
    n_seq = max(1, N_STEP // n_ctx)
    n_batch = n_seq * n_ctx if n_ctx <= N_STEP else min(N_STEP, n_ctx - n_ctx // 2)
    return Decoding(n_ctx, n_seq, n_batch, min(n_batch, n_seq * (n_ctx - n_ctx // 2)), n_batch)


def iter_logits(
    engine: Engine, tokens: I32Array, *, n_ctx: int = N_CTX, n_chunk: int | None = None
) -> Iterator[LogitsBlock]:
    """Logits of every scored position of `tokens` (n,), chunks in order, positions in order within a chunk.

    n_chunk  chunks to score, None for all whole ones

    A chunk longer than n_batch comes in several blocks. Raises InputError for a text of less than one chunk.
    """
    chunks = with_bos(_chunks(tokens, n_ctx, n_chunk), engine.vocab)
    if n_ctx > engine.settings.n_ctx:
        raise UsageError(f"the engine holds {engine.settings.n_ctx} tokens a sequence, chunks have {n_ctx}")
    n_seq = max(1, min(engine.settings.n_seq, engine.settings.n_batch // n_ctx))
    for first in range(0, len(chunks), n_seq):
        group = chunks[first : first + n_seq]
        engine.clear()
        for start in range(0, n_ctx, engine.settings.n_batch):
            yield from _score_columns(engine, group, first, start, min(n_ctx, start + engine.settings.n_batch))


def perplexity(
    engine: Engine,
    tokens: I32Array,
    *,
    n_ctx: int = N_CTX,
    n_chunk: int | None = None,
    on_chunk: OnFraction | None = None,
) -> Perplexity:
    """Perplexity of `tokens` (n,) in chunks of `n_ctx`, the second half of each scored.

    on_chunk  called with the fraction done
    """
    n_chunk = len(_chunks(tokens, n_ctx, n_chunk))
    started = perf_counter()
    nll = np.zeros((n_chunk, n_ctx - 1 - n_ctx // 2))
    n_part = engine.settings.threads
    with ThreadPoolExecutor(n_part) as pool:
        for block in iter_logits(engine, tokens, n_ctx=n_ctx, n_chunk=n_chunk):
            parts = pool.map(logits.nll, np.array_split(block.logits, n_part), np.array_split(block.targets, n_part))
            with damage_named(engine.path, block.chunk):
                nll[block.chunk, block.positions - n_ctx // 2] = np.concatenate(list(parts))
            if on_chunk is not None:
                on_chunk((block.chunk + 1) / n_chunk)
    return summarize(nll, n_ctx, perf_counter() - started)


@contextmanager
def damage_named(path: Path, chunk: int) -> Iterator[None]:
    """Logits inside that are not finite become a LogitsError that says of which model and chunk."""
    try:
        yield
    except NonFiniteError as error:
        raise LogitsError(
            f"{path.name}: chunk {chunk} of the text: {error}. The weights are damaged; `ggufkit diff` says where."
        ) from error


def summarize(nll: NDArray[np.float64], n_ctx: int, seconds: float) -> Perplexity:
    """Mean and naive standard error of `nll` (n_chunk, n_scored). Source: llama.cpp perplexity.cpp."""
    mean = float(nll.mean())
    variance = max(0.0, float(np.square(nll).mean()) - mean * mean)
    error = sqrt(variance / max(1, nll.size - 1))
    return Perplexity(ppl=exp(mean), ppl_error=exp(mean) * error, nll=nll, n_ctx=n_ctx, seconds=seconds)


def _score_columns(engine: Engine, group: I32Array, first: int, start: int, stop: int) -> Iterator[LogitsBlock]:
    """Decode columns [start, stop) of a group of chunks (n, n_ctx); yield a block for each chunk."""
    n, n_ctx = group.shape
    columns = np.arange(start, stop, dtype=np.int32)
    scored = (columns >= n_ctx // 2) & (columns < n_ctx - 1)
    seq = np.repeat(np.arange(n), stop - start)
    engine.decode(group[:, start:stop].reshape(-1), np.tile(columns, n), seq=seq, logits=np.tile(scored, n))
    positions = columns[scored]
    if not len(positions):
        return
    rows = engine.logits(n * len(positions)).reshape(n, len(positions), -1)
    for i in range(n):
        yield LogitsBlock(first + i, positions, rows[i], group[i, positions + 1])


def _chunks(tokens: I32Array, n_ctx: int, most: int | None) -> I32Array:
    chunks = whole_chunks(tokens, n_ctx, most)
    if not len(chunks):
        raise InputError(
            f"the text has {len(tokens)} tokens, less than one chunk of {n_ctx}. Use a longer text or a smaller --ctx"
        )
    return chunks
