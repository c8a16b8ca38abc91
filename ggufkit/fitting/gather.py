"""Walks a text through a model and lets observers see what every weight tensor sees.

Knows chunks and batches. Does not know what the observers keep. Chunks are llama-imatrix's: `n_ctx` tokens each, the
first replaced by BOS where the model wants one, several sequences in a batch, the rest of the text left out.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import EngineError, InputError
from ggufkit.runtime.activations import Activations, ActivationTap
from ggufkit.runtime.engine import Device, Engine
from ggufkit.runtime.library import load
from quant.errors import NonFiniteError
from quant.importance import InputSums, input_sums

I32Array = NDArray[np.int32]
N_CTX = 512
GROUP_CHUNKS = 4  # chunks that are decoded together
OnChunk = Callable[[int, int], None]


class SumsObserver:
    """Keeps sums of squares by tensor name. Tensors that share an input (q, k, v; gate, up) are summed once."""

    def __init__(self) -> None:
        self.sums: dict[str, InputSums] = {}
        self._pass: dict[int, InputSums] = {}  # of the micro-batch in hand, by where the input lies
        self._seen: set[str] = set()

    def __call__(self, seen: Activations) -> None:
        if seen.name in self._seen:  # the next micro-batch has begun: its inputs lie in the same places
            self._seen.clear()
            self._pass.clear()
        self._seen.add(seen.name)
        new = self._pass.get(seen.source)
        if new is None or new.sums.shape[0] != seen.n_expert:
            new = self._pass[seen.source] = input_sums(seen.x, seen.experts, seen.n_expert)
        old = self.sums.get(seen.name)
        self.sums[seen.name] = new if old is None else old + new


def wants_block_weights(name: str) -> bool:
    """Weights of the layers: what llama-imatrix collects."""
    return name.startswith("blk.")


def observe_text(
    model: Path,
    text: str,
    observe: Callable[[Activations], None],
    *,
    wants: Callable[[str], bool] = wants_block_weights,
    n_tokens: int | None = None,
    skip_tokens: int = 0,
    spread: bool = False,
    n_ctx: int = N_CTX,
    threads: int | None = None,
    device: Device = Device.AUTO,
    on_chunk: OnChunk = lambda *_: None,
) -> int:
    """Run `text` through the GGUF `model`; returns how many chunks were seen.

    n_tokens     at most so many tokens, in whole chunks; None reads everything
    skip_tokens  leave out the beginning, in whole chunks: what an earlier run has read
    spread       take the tokens evenly from the whole text, not from its beginning
    on_chunk     called with (done, total)

    Raises InputError for a text that is too short, and for activations that are not finite, with the tensor's name;
    EngineError where the model does not run. KeyboardInterrupt passes through; what observers gathered is theirs.
    """
    tap = ActivationTap(load(), _naming(observe, model), wants)
    n_seq = GROUP_CHUNKS
    # all positions ask for logits: llama.cpp leaves out the last layer for those that do not
    with Engine.open(
        model, n_ctx=n_ctx, n_seq=n_seq, n_batch=n_seq * n_ctx, n_outputs=n_seq * n_ctx,
        threads=threads, device=device, eval_callback=tap.callback,
    ) as engine:  # fmt: skip
        chunks = text_chunks(engine, text, n_ctx, n_tokens=n_tokens, skip_tokens=skip_tokens, spread=spread)
        for first in range(0, len(chunks), n_seq):
            group = chunks[first : first + n_seq]
            engine.clear()
            _decode(engine, tap, group)
            tap.stop_early()
            on_chunk(min(first + n_seq, len(chunks)), len(chunks))
    return len(chunks)


def _naming(observe: Callable[[Activations], None], model: Path) -> Callable[[Activations], None]:
    def named(seen: Activations) -> None:
        try:
            observe(seen)
        except NonFiniteError as error:
            raise InputError(
                f"{model.name}: inputs of {seen.name}: {error}. The model overflows as it is stored; calibrate on a "
                "BF16 or F32 file of it."
            ) from error

    return named


def _decode(engine: Engine, tap: ActivationTap, group: I32Array) -> None:
    n, n_ctx = group.shape
    positions = np.tile(np.arange(n_ctx, dtype=np.int32), n)
    try:
        engine.decode(group.reshape(-1), positions, seq=np.repeat(np.arange(n), n_ctx), logits=1)
    except EngineError:
        tap.reraise()  # the observer's own error says more than the batch that it stopped
        raise
    tap.reraise()


def text_chunks(
    engine: Engine, text: str, n_ctx: int, *, n_tokens: int | None, skip_tokens: int = 0, spread: bool
) -> I32Array:
    """(n_chunk, n_ctx) token ids. Raises InputError where not a single chunk is left."""
    tokens = engine.tokenize(text)
    left = tokens[skip_tokens - skip_tokens % n_ctx :]
    n_whole = len(left) // n_ctx
    if n_whole < 1:
        raise InputError(
            f"the calibration text has {len(left)} tokens of this model, at least {n_ctx} are needed "
            "(20,000 or more are advised). Pass more --text."
        )
    n_chunk = n_whole if n_tokens is None else max(1, min(n_whole, n_tokens // n_ctx))
    chosen = np.arange(n_whole) * n_chunk // n_whole
    first_of_each = np.searchsorted(chosen, np.arange(n_chunk)) if spread else np.arange(n_chunk)
    chunks: I32Array = left[: n_whole * n_ctx].reshape(n_whole, n_ctx)[first_of_each].copy()
    if engine.vocab.add_bos:
        chunks[:, 0] = engine.vocab.bos
    return chunks
