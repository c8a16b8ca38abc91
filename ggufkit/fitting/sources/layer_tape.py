"""`LayerTape`: one layer that is open, run on a chunk and then back: from the gradient of what it gives to that of what
went in.

Knows one file of a layer. Does not know where chunks and gradients come from, or what is kept of them.
"""

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import EngineError
from ggufkit.fitting.sources.layer_run import EXACT
from ggufkit.runtime.backward import Backward, OnOutput
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.library import load
from ggufkit.runtime.tape import Tape

F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]


class LayerTape:
    """The layer in the GGUF at `path`.

    on_output    as of `Backward`, with names as the file has them
    takes_rows   rows of the stream go in; tokens where not
    with_head    it ends in the logits; at the layer's output where not
    input_scale  what llama.cpp multiplies rows of the stream with on their way in, to be taken back
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        threads: int,
        on_output: OnOutput,
        takes_rows: bool,
        with_head: bool,
        input_scale: float = 1.0,
    ) -> None:
        self._takes_rows, self._scale = takes_rows, np.float32(input_scale)
        self._tape = Tape(load(), takes_rows=takes_rows, last="" if with_head else "l_out-0")
        self._back = Backward(self._tape, on_output, threads)
        self._engine = Engine.open(
            path, n_ctx=n_ctx, n_batch=n_ctx, n_ubatch=n_ctx, n_outputs=n_ctx,
            threads=threads, eval_callback=self._tape.callback, **EXACT,
        )  # fmt: skip

    @property
    def ended_at(self) -> set[str]:
        """Operations without a rule that a gradient came to."""
        return self._back.ended_at

    def forward(self, x: I32Array | F32Array) -> None:
        """Compute ids (n,) of the file's vocabulary, or rows (n, n_embd)."""
        if self._takes_rows and self._scale != 1:
            x = (x / self._scale).astype(np.float32)
        self._tape.clear()
        self._engine.clear()
        try:
            self._engine.decode(x, 0, logits=1)
        except EngineError:
            self._tape.reraise()
            raise
        self._tape.reraise()

    def logits(self, n: int) -> F32Array:
        """(n, n_vocab) of the last chunk, a view."""
        return self._engine.logits(n)

    def back(self, gradient: F32Array) -> F32Array | None:
        """From the gradient of the output or of the logits to that of the rows that went in (n, n_embd); None for
        tokens."""
        into = self._back(gradient)
        self._tape.clear()
        if not self._takes_rows:
            return None
        if into is None:
            raise EngineError("no gradient comes to what goes into a layer")
        return into if self._scale == 1 else (into / self._scale).astype(np.float32)

    def close(self) -> None:
        self._back.close()
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
