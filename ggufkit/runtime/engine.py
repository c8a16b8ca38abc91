"""`Engine`: one model and one context of llama.cpp, opened together and closed in the right order.

    with Engine.open(path) as engine:
        engine.decode(engine.vocab.tokenize("Once upon a time"), pos=0)
        engine.logits(1)

Knows the C API of models and contexts. Does not know sampling, text generation or scores. One thread at a time.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ggufkit.errors import EngineError, InputError, UsageError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.tensor import F32Array
from ggufkit.runtime import boundary, library
from ggufkit.runtime.adapters import Adapters, load_adapters, require_fitting, switch_on
from ggufkit.runtime.batch import Batch, I32Array
from ggufkit.runtime.checks import incomplete_spelling, require_runnable
from ggufkit.runtime.contention import Governor
from ggufkit.runtime.interrupt import Interrupt
from ggufkit.runtime.loading import (
    N_BATCH,
    N_UBATCH,
    ContextSettings,
    Device,
    OnFraction,
    context_settings,
    load_model,
    new_context,
)
from ggufkit.runtime.templates import TemplateWorker
from ggufkit.runtime.vocabulary import Vocabulary


class Engine:
    """An open model with its context. Make with `Engine.open`, use as a context manager.

    header    the file's header: metadata and tensors
    settings  what the context was opened with
    vocab     the model's tokenizer
    notices   lines a person should see: fallbacks that were taken, and why
    log       what llama.cpp said while it worked for this engine
    templates renders the chat template; its process ends with the engine
    """

    def __init__(
        self,
        header: GgufFile,
        settings: ContextSettings,
        *,
        notices: Sequence[str] = (),
        on_load: OnFraction | None = None,
        eval_callback: Any = None,
        governor: Governor | None = None,
        adapters: Adapters = (),
    ) -> None:
        self._governor = governor
        self.header, self.settings, self.notices = header, settings, tuple(notices)
        self.log, self.epoch = library.LogRing(), 0
        self._lib: ModuleType = library.load()
        self._eval_callback = eval_callback  # C keeps the pointer as long as the context lives
        self._ctx: Any = None
        boundary.note(self.path, "it is loaded")
        with self.log.listening():
            self._model: Any = load_model(self._lib, self.path, settings, on_load)
        try:
            with self.log.listening():
                handles = load_adapters(self._lib, self._model, adapters)
                self._ctx = new_context(self._lib, self._model, self.path, settings, eval_callback)
                switch_on(self._lib, self._ctx, handles, adapters)
            self.vocab = Vocabulary(self._lib, self._model, incomplete_spelling(header.metadata))
        except BaseException:
            self.close()
            raise
        self._batch = Batch(self._lib, settings.n_batch, settings.n_seq)
        self._one = (self._lib.llama_token * 1)()
        self._one_batch = self._lib.llama_batch_get_one(self._one, 1)
        self._row_address, self._row = 0, np.empty(0, dtype=np.float32)  # a view of the last row that was looked at
        self._interrupt = Interrupt(self._lib)
        self.templates = TemplateWorker()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        n_ctx: int | None = None,
        n_batch: int = N_BATCH,
        n_ubatch: int = N_UBATCH,
        n_seq: int = 1,
        n_outputs: int | None = None,
        threads: int | None = None,
        device: Device = Device.AUTO,
        use_extra_bufts: bool | None = None,
        flash_attn: bool | None = None,
        on_load: OnFraction | None = None,
        eval_callback: Any = None,
        adapters: Adapters = (),
    ) -> Self:
        """Load the file at `path` and make a context. The header is checked before llama.cpp sees the file.

        n_ctx            tokens a sequence may hold; None takes the training length, or what fits this machine's memory
        n_outputs        most rows of logits a decode returns; None is one a sequence, all that generation needs
        threads          None takes the physical cores this process may use; see `share_cores`
        use_extra_bufts  repacked and AMX kernels; None finds out whether they work here
        flash_attn       None is faster; False keeps F32 inside attention, some three times nearer to the exact logits
        on_load          called with the fraction loaded
        eval_callback    `ActivationTap.callback`: sees every node of the graph
        adapters         LoRA adapters as GGUF, and how strongly each is added

        Raises GgufError for a file that breaks the format, UsageError for options that cannot hold, EngineError where
        llama.cpp refuses, with its last log lines.
        """
        header = GgufFile.open(Path(path))
        header.close()  # llama.cpp opens it again; metadata is in memory
        require_runnable(header)
        require_fitting(adapters, header)
        settings, notices = context_settings(
            header, n_ctx=n_ctx, n_batch=n_batch, n_ubatch=n_ubatch, n_seq=n_seq, n_outputs=n_outputs, threads=threads,
            device=device, use_extra_bufts=use_extra_bufts, flash_attn=flash_attn,
        )  # fmt: skip
        return cls(
            header, settings, notices=notices, on_load=on_load, eval_callback=eval_callback,
            governor=None if threads else Governor(settings.threads), adapters=adapters,
        )  # fmt: skip

    def close(self) -> None:
        """Free the context, then the model. Safe to call twice."""
        if hasattr(self, "templates"):
            self.templates.close()
        if hasattr(self, "vocab"):
            self.vocab.close()
        ctx, self._ctx = self._ctx, None
        model, self._model = self._model, None
        if ctx is not None:
            self._lib.llama_free(ctx)
        if model is not None:
            self._lib.llama_model_free(model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        if kind is None:
            self.require_unchanged()

    def require_unchanged(self) -> None:
        """Raise InputError where the file was written to since it was opened; the end of `with` asks this, too."""
        if any(part.file.was_overwritten() for part in self.header.parts):
            raise InputError(f"{self.path} was written to while it ran: the results are of no single file. Run again.")

    @property
    def path(self) -> Path:
        return self.header.path

    @property
    def chat_template(self) -> str | None:
        """The Jinja source that the file carries, None where it has none."""
        found = self.header.value("tokenizer.chat_template")
        return found if isinstance(found, str) else None

    @property
    def handle(self) -> Any:
        """The llama_context pointer. Raises EngineError once it is closed: llama.cpp would end the process."""
        if self._ctx is None:
            raise EngineError(f"{self.path.name}: the engine is closed. Use it inside its `with` block.")
        return self._ctx

    @property
    def lib(self) -> ModuleType:
        """llama_cpp's low-level functions."""
        return self._lib

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> I32Array:
        """Token ids (n,). See `Vocabulary.tokenize`."""
        return self.vocab.tokenize(text, add_special=add_special, parse_special=parse_special)

    def decode(
        self, tokens: I32Array | F32Array, pos: I32Array | int, *, seq: ArrayLike = 0, logits: ArrayLike = 0
    ) -> None:
        """Compute up to n_batch tokens.

        tokens  (n,) int32 ids; or (n, n_embd) float32, what goes into the first layer in place of their embeddings
        pos     (n,) positions in their sequences, or the first position of one sequence
        seq     (n,) sequence numbers, or one for all
        logits  (n,) mask of rows wanted, or one value for all

        A decode that fails, or that Ctrl-C ends with KeyboardInterrupt, takes back what it added: earlier tokens of its
        sequences stay, and other sequences as they are.
        """
        n, ctx = len(tokens), self.handle
        if not 0 < n <= self.settings.n_batch:
            raise UsageError(f"a decode takes 1 to {self.settings.n_batch} tokens (n_batch), got {n}")
        if isinstance(pos, int):
            pos = np.arange(pos, pos + n, dtype=np.int32)
        self._batch.fill(tokens, pos, seq, logits)
        added = _first_positions(pos, seq)
        boundary.note(self.path, "it computes")
        with self.log.listening(), self._interrupt.watching(ctx):
            rc = self._lib.llama_decode(ctx, self._batch.struct)
            for number, first in added.items() if rc else ():
                self.forget(number, first)
        if rc:
            raise self._decode_error(rc, n)

    def decode_one(self, token: int) -> None:
        """Compute `token` behind the last one of sequence 0, with its logits. The fast path of generation."""
        self._one[0] = token
        rc = self._lib.llama_decode(self.handle, self._one_batch)
        if rc:
            raise self._decode_error(rc, 1)

    def logits(self, n_rows: int) -> F32Array:
        """The rows asked for in the last decode, in batch order: (n_rows, n_vocab), a view until the next decode."""
        pointer = self._lib.llama_get_logits(self.handle)
        if not pointer or n_rows > self.settings.n_outputs:
            raise library.engine_error(f"{self.path.name}: llama.cpp does not have {n_rows} rows of logits.", self.log)
        return self._rows_at(ctypes.addressof(pointer.contents), n_rows)

    def _rows_at(self, address: int, n_rows: int) -> F32Array:
        shape = (n_rows, self.vocab.n_vocab)
        return np.ctypeslib.as_array((ctypes.c_float * (shape[0] * shape[1])).from_address(address)).reshape(shape)

    def likeliest(self, row: int = -1) -> int:
        """The token of the largest logit in row `row` of the last decode, the lowest id among equals.

        What llama.cpp's greedy sampler gives, without the list of candidates that it fills first. Raises EngineError
        where a logit is NaN.
        """
        pointer = self._lib.llama_get_logits_ith(self.handle, row)
        if not pointer:
            raise library.engine_error(f"{self.path.name}: llama.cpp does not have row {row} of logits.", self.log)
        address = ctypes.addressof(pointer.contents)
        if address != self._row_address:
            self._row_address, self._row = address, self._rows_at(address, 1)[0]
        token = int(self._row.argmax())  # of NaN, where there is one
        if pointer[token] != pointer[token]:
            raise self._nan_error()
        return token

    def require_numbers(self, row: int = -1, *, whole: bool = False) -> None:
        """Raise EngineError where row `row` of logits holds NaN: its first value, or any value with `whole`."""
        values = self._lib.llama_get_logits_ith(self.handle, row)
        if values and (
            values[0] != values[0] or (whole and np.isnan(np.ctypeslib.as_array(values, (self.vocab.n_vocab,))).any())
        ):
            raise self._nan_error()

    def share_cores(self) -> None:
        """Compute with fewer threads while other programs are busy, with all again afterwards.

        Only where the number of threads was left to us; called between decodes by who generates text.
        """
        n = self._governor.look() if self._governor is not None else None
        if n is not None:
            self._lib.llama_set_n_threads(self.handle, n, n)

    def forget(self, seq: int, start: int = 0) -> int:
        """Forget sequence `seq` from position `start` on; how many tokens stay, 0 where the memory cannot be cut."""
        memory = self._lib.llama_get_memory(self.handle)
        if self._lib.llama_memory_seq_rm(memory, seq, start, -1):
            return start
        self._lib.llama_memory_seq_rm(memory, seq, -1, -1)  # recurrent layers keep no earlier state: all of it goes
        return 0

    def clear(self) -> None:
        """Forget every sequence; `epoch` counts how often."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self.handle), True)
        self.epoch += 1

    def abort(self) -> None:
        """Stop the decode that another thread is running; it raises EngineError there."""
        self._interrupt.set()

    def _nan_error(self) -> EngineError:
        return EngineError(
            f"{self.path.name}: the model computes values that are not numbers (NaN logits), so there is no next "
            "token. Its weights are damaged, or too large for this build. Fetch or make the file again."
        )

    def _decode_error(self, rc: int, n: int) -> EngineError:
        if rc == 1:
            return EngineError(
                f"{self.path.name}: no room for {n} more tokens in a context of {self.settings.n_ctx} a sequence. "
                "Open it with a larger --ctx, or shorten the text."
            )
        if rc == 2:
            return EngineError(f"{self.path.name}: the computation of {n} tokens was cancelled")
        return library.engine_error(f"{self.path.name}: llama_decode failed with code {rc} on {n} tokens.", self.log)


def _first_positions(pos: ArrayLike, seq: ArrayLike) -> dict[int, int]:
    """The first position that a batch adds to each of its sequences."""
    positions = np.atleast_1d(np.asarray(pos))
    numbers = np.broadcast_to(np.asarray(seq), positions.shape)
    return {int(n): int(positions[numbers == n].min()) for n in np.unique(numbers)}
