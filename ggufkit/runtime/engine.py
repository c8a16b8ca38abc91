"""`Engine`: one model and one context of llama.cpp, opened together and closed in the right order.

    with Engine.open(path) as engine:
        engine.decode(engine.vocab.tokenize("Once upon a time"), pos=0)
        engine.logits(1)

Knows the C API of models and contexts. Does not know sampling, text generation or scores. One thread at a time.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ggufkit.errors import EngineError, UsageError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_source import read_hparams
from ggufkit.formats.tensor import F32Array
from ggufkit.runtime import library, machine, memory, probe
from ggufkit.runtime.batch import Batch, I32Array
from ggufkit.runtime.interrupt import Interrupt, postponed_sigint
from ggufkit.runtime.vocabulary import Vocabulary

N_BATCH, N_UBATCH = 2048, 512  # llama.cpp's own defaults
MAX_CTX = 1 << 24
Progress = Callable[[float], None]


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    METAL = "metal"


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """What a context was opened with; logits depend on all of it but the threads.

    n_ctx      tokens a sequence may hold
    n_batch    most tokens of one `decode`
    n_ubatch   most tokens computed at once
    n_seq      independent sequences
    n_outputs  most rows of logits of one `decode`
    flash_attn None leaves it to llama.cpp, which takes it where it can
    """

    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_seq: int
    n_outputs: int
    threads: int
    device: Device
    use_extra_bufts: bool
    flash_attn: bool | None


class Engine:
    """An open model with its context. Make with `Engine.open`, use as a context manager.

    header    the file's header: metadata and tensors
    settings  what the context was opened with
    vocab     the model's tokenizer
    notices   lines a person should see: fallbacks that were taken, and why
    """

    def __init__(
        self,
        header: GgufFile,
        settings: ContextSettings,
        *,
        notices: Sequence[str] = (),
        on_load: Progress | None = None,
        eval_callback: Any = None,
    ) -> None:
        self.header, self.settings, self.notices = header, settings, tuple(notices)
        self._lib: ModuleType = library.load()
        self._eval_callback = eval_callback  # C keeps the pointer as long as the context lives
        self._ctx: Any = None
        self._model: Any = _load_model(self._lib, self.path, settings, on_load)
        try:
            self._ctx = _new_context(self._lib, self._model, self.path, settings, eval_callback)
            self._memory = self._lib.llama_get_memory(self._ctx)
            self.vocab = Vocabulary(self._lib, self._model)
        except BaseException:
            self.close()
            raise
        self._batch = Batch(self._lib, settings.n_batch, settings.n_seq)
        self._one = (self._lib.llama_token * 1)()
        self._one_batch = self._lib.llama_batch_get_one(self._one, 1)
        self._interrupt = Interrupt(self._lib)

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
        on_load: Progress | None = None,
        eval_callback: Any = None,
    ) -> Self:
        """Load the file at `path` and make a context. The header is checked before llama.cpp sees the file.

        n_ctx            tokens a sequence may hold; None takes the training length, or what fits this machine's memory
        n_outputs        most rows of logits a decode returns; None is one a sequence, all that generation needs
        threads          None takes the physical cores this process may use
        use_extra_bufts  repacked and AMX kernels; None finds out whether they work here
        flash_attn       None is faster; False keeps F32 inside attention, some three times nearer to the exact logits
        on_load          called with the fraction loaded
        eval_callback    `ActivationTap.callback`: sees every node of the graph

        Raises GgufError for a file that breaks the format, UsageError for options that cannot hold, EngineError where
        llama.cpp refuses, with its last log lines.
        """
        n_outputs = n_seq if n_outputs is None else n_outputs
        _check_range(n_ctx=(n_ctx, MAX_CTX), threads=(threads, 512), n_seq=(n_seq, 256))
        _check_range(n_batch=(n_batch, 1 << 20), n_ubatch=(n_ubatch, 1 << 20), n_outputs=(n_outputs, 1 << 20))
        header = GgufFile.open(Path(path))
        header.close()  # llama.cpp opens it again; metadata is in memory
        kernels = probe.verdict() if use_extra_bufts is None else None
        extra = use_extra_bufts if kernels is None else probe.require(kernels)
        room, notice = (n_ctx, "") if n_ctx else _default_ctx(header, n_seq)
        settings = ContextSettings(
            n_ctx=room,
            n_batch=min(n_batch, room * n_seq),
            n_ubatch=min(n_ubatch, n_batch, room * n_seq),
            n_seq=n_seq,
            n_outputs=n_outputs,
            threads=threads or machine.choose_threads().n,
            device=Device(device),
            use_extra_bufts=bool(extra),
            flash_attn=flash_attn,
        )
        notices = [line for line in (kernels.notice if kernels else "", notice) if line]
        return cls(header, settings, notices=notices, on_load=on_load, eval_callback=eval_callback)

    def close(self) -> None:
        """Free the context, then the model. Safe to call twice."""
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
        """The llama_context pointer, for samplers."""
        return self._ctx

    @property
    def lib(self) -> ModuleType:
        """llama_cpp's low-level functions."""
        return self._lib

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> I32Array:
        """Token ids (n,). See `Vocabulary.tokenize`."""
        return self.vocab.tokenize(text, add_special=add_special, parse_special=parse_special)

    def decode(self, tokens: I32Array, pos: I32Array | int, *, seq: ArrayLike = 0, logits: ArrayLike = 0) -> None:
        """Compute up to n_batch tokens.

        tokens  (n,) int32
        pos     (n,) positions in their sequences, or the first position of one sequence
        seq     (n,) sequence numbers, or one for all
        logits  (n,) mask of rows wanted, or one value for all

        Ctrl-C ends it early: the sequences of this batch are then cleared and KeyboardInterrupt is raised.
        """
        n = len(tokens)
        if not 0 < n <= self.settings.n_batch:
            raise UsageError(f"a decode takes 1 to {self.settings.n_batch} tokens (n_batch), got {n}")
        if isinstance(pos, int):
            pos = np.arange(pos, pos + n, dtype=np.int32)
        self._batch.fill(tokens, pos, seq, logits)
        with self._interrupt.watching(self._ctx):
            rc = self._lib.llama_decode(self._ctx, self._batch.struct)
            if rc:
                self.clear()
        if rc:
            raise self._decode_error(rc, n)

    def decode_one(self, token: int) -> None:
        """Compute `token` behind the last one of sequence 0, with its logits. The fast path of generation."""
        self._one[0] = token
        rc = self._lib.llama_decode(self._ctx, self._one_batch)
        if rc:
            raise self._decode_error(rc, 1)

    def logits(self, n_rows: int) -> F32Array:
        """The rows asked for in the last decode, in batch order: (n_rows, n_vocab), a view until the next decode."""
        pointer = self._lib.llama_get_logits(self._ctx)
        if not pointer or n_rows > self.settings.n_outputs:
            raise library.engine_error(f"{self.path.name}: llama.cpp holds no {n_rows} rows of logits.")
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        shape = (n_rows, self.vocab.n_vocab)
        return np.ctypeslib.as_array((ctypes.c_float * (shape[0] * shape[1])).from_address(address or 0)).reshape(shape)

    def clear(self) -> None:
        """Forget every sequence."""
        self._lib.llama_memory_clear(self._memory, True)

    def abort(self) -> None:
        """Stop the decode that another thread is running; it raises EngineError there."""
        self._interrupt.set()

    def _decode_error(self, rc: int, n: int) -> EngineError:
        if rc == 1:
            return EngineError(
                f"{self.path.name}: no room for {n} more tokens in a context of {self.settings.n_ctx} a sequence. "
                "Open it with a larger --ctx, or shorten the text."
            )
        if rc == 2:
            return EngineError(f"{self.path.name}: the computation of {n} tokens was cancelled")
        return library.engine_error(f"{self.path.name}: llama_decode failed with code {rc} on {n} tokens.")


def _check_range(**options: tuple[int | None, int]) -> None:
    for name, (value, most) in options.items():
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{name} is {value}; it must be between 1 and {most}")


def _default_ctx(header: GgufFile, n_seq: int) -> tuple[int, str]:
    """The training length, or the longest context that fits the memory that is free; and a line where it is less."""
    hparams = read_hparams(header)
    n_train = min(hparams.n_ctx_train or 4096, MAX_CTX)
    free = machine.memory().available
    weights = sum(tensor.nbytes for tensor in header.tensors)
    fitting = memory.largest_ctx(free, weights, hparams) // n_seq if free else n_train
    if fitting >= n_train:
        return n_train, ""
    if fitting:
        return (
            fitting,
            f"context of {fitting} tokens: the trained {n_train} do not fit {free / 2**30:.1f} GiB of free memory.",
        )
    return min(n_train, 2048), (
        f"{header.path.name} needs {weights / 2**30:.1f} GiB and more, {free / 2**30:.1f} GiB of memory are free: "
        "it will be read from disk again and again."
    )


def _load_model(lib: ModuleType, path: Path, settings: ContextSettings, on_load: Progress | None) -> Any:
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0 if settings.device is Device.CPU else -1
    params.use_extra_bufts = settings.use_extra_bufts
    if settings.device is Device.METAL and not lib.llama_supports_gpu_offload():
        raise EngineError(
            "this llama.cpp was built without Metal. Use --device cpu, or rebuild llama-cpp-python on macOS."
        )
    stop: list[bool] = []

    def on_progress(fraction: float, _user: Any) -> bool:
        if on_load is not None:
            on_load(fraction)
        return not stop

    params.progress_callback = lib.llama_progress_callback(on_progress)
    with postponed_sigint(lambda: stop.append(True)):
        model = lib.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise library.engine_error(f"{path}: llama.cpp does not load this file.")
    return model


def _new_context(lib: ModuleType, model: Any, path: Path, settings: ContextSettings, eval_callback: Any) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = settings.n_ctx * settings.n_seq
    params.n_batch, params.n_ubatch = settings.n_batch, settings.n_ubatch
    params.n_seq_max = settings.n_seq
    params.n_outputs_max, params.n_outputs_max_per_seq = settings.n_outputs, 0
    params.n_threads = params.n_threads_batch = settings.threads
    params.flash_attn_type = -1 if settings.flash_attn is None else int(settings.flash_attn)
    if eval_callback is not None:
        params.cb_eval = eval_callback
    ctx = lib.llama_init_from_model(model, params)
    if not ctx:
        raise library.engine_error(
            f"{path}: no context of {settings.n_seq} x {settings.n_ctx} tokens; often the memory does not suffice. "
            "Try a smaller --ctx."
        )
    return ctx
