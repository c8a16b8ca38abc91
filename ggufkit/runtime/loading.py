"""From a checked header to C objects: which context fits, the model loaded, the context made.

Knows llama.cpp's parameter structs and what goes wrong there. Does not know batches, logits or who closes what.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

from ggufkit.errors import EngineError, UsageError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_source import read_hparams
from ggufkit.runtime import library, machine, memory, probe
from ggufkit.sigint import called_from_c, postponed_sigint

N_BATCH, N_UBATCH = 2048, 512  # llama.cpp's own defaults
MAX_CTX = 1 << 24
# The default context: what an eighth of the free memory holds, 4,096 tokens at least where they fit, and no more than
# today's models are trained on. A gigabyte of keys and values takes llama.cpp about a second to make.
SHARE, MODEST_CTX, MOST_CTX = 1 / 8, 4096, 1 << 17
OnFraction = Callable[[float], None]


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


def context_settings(
    header: GgufFile,
    *,
    n_ctx: int | None,
    n_batch: int,
    n_ubatch: int,
    n_seq: int,
    n_outputs: int | None,
    threads: int | None,
    device: Device,
    use_extra_bufts: bool | None,
    flash_attn: bool | None,
) -> tuple[ContextSettings, list[str]]:
    """What `Engine.open` was asked for, with this machine's choices filled in; and lines a person should see.

    Raises UsageError for a number out of its range, EngineError where nothing computes here.
    """
    n_outputs = n_seq if n_outputs is None else n_outputs
    _check_range(n_ctx=(n_ctx, MAX_CTX), threads=(threads, 512), n_seq=(n_seq, 256))
    _check_range(n_batch=(n_batch, 1 << 20), n_ubatch=(n_ubatch, 1 << 20), n_outputs=(n_outputs, 1 << 20))
    kernels = probe.verdict() if use_extra_bufts is None else None
    extra = use_extra_bufts if kernels is None else probe.require(kernels)
    room, notice = wanted_ctx(header, n_ctx) if n_ctx else default_ctx(header, n_seq)
    settings = ContextSettings(
        n_ctx=room, n_batch=min(n_batch, room * n_seq), n_ubatch=min(n_ubatch, n_batch, room * n_seq), n_seq=n_seq,
        n_outputs=n_outputs, threads=threads or machine.choose_threads().n, device=Device(device),
        use_extra_bufts=bool(extra), flash_attn=flash_attn,
    )  # fmt: skip
    return settings, [line for line in (kernels.notice if kernels else "", notice) if line]


def _check_range(**options: tuple[int | None, int]) -> None:
    for name, (value, most) in options.items():
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{name} is {value}; it must be between 1 and {most}")


def default_ctx(header: GgufFile, n_seq: int) -> tuple[int, str]:
    """The training length, as far as a sensible share of the free memory holds it; and a line where it is less.

    llama.cpp takes all memory of a context at once, and a file may declare any length.
    """
    hparams = read_hparams(header)
    n_train = min(hparams.n_ctx_train or MODEST_CTX, MAX_CTX)
    free = machine.memory().available
    if not free:  # not known
        return min(n_train, MODEST_CTX), ""
    weights = sum(tensor.nbytes for tensor in header.tensors)
    fitting = memory.largest_ctx(free, weights, hparams) // n_seq
    if not fitting:
        return min(n_train, 2048), (
            f"{header.path.name} needs {weights / 2**30:.1f} GiB and more, {free / 2**30:.1f} GiB of memory are free: "
            "it will be read from disk again and again."
        )
    least = memory.run_nbytes(weights, hparams, memory.CTX_STEP)
    share = memory.largest_ctx(int((least + free * SHARE) / memory.SPARE), weights, hparams) // n_seq
    sensible = min(max(share, MODEST_CTX), MOST_CTX)
    if min(fitting, sensible) >= n_train:
        return n_train, ""
    if fitting <= sensible:
        said = f"do not fit {free / 2**30:.1f} GiB of free memory."
        return fitting, f"context of {fitting} tokens: the trained {n_train} {said}"
    whole = memory.kv_nbytes(hparams, n_train, n_seq=n_seq)
    return sensible, (
        f"context of {sensible} tokens, of the declared {n_train} that would take {whole / 2**30:.1f} GiB. "
        "--ctx sets another."
    )


def wanted_ctx(header: GgufFile, n_ctx: int) -> tuple[int, str]:
    """`n_ctx`, and a line where the model was trained on less."""
    n_train = header.value(f"{header.value('general.architecture')}.context_length")
    if not isinstance(n_train, int) or not 0 < n_train < n_ctx:
        return n_ctx, ""
    return n_ctx, f"context of {n_ctx} tokens: the model was trained on {n_train}, beyond that it gets worse."


def load_model(lib: ModuleType, path: Path, settings: ContextSettings, on_load: OnFraction | None) -> Any:
    """The llama_model. Ctrl-C ends the loading. Raises EngineError with llama.cpp's reason."""
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0 if settings.device is Device.CPU else -1
    params.use_extra_bufts = settings.use_extra_bufts
    if settings.device is Device.METAL and not lib.llama_supports_gpu_offload():
        raise EngineError(
            "this llama.cpp was built without Metal. Use --device cpu, or rebuild llama-cpp-python on macOS."
        )
    stop: list[bool] = []

    @called_from_c
    def on_progress(fraction: float, _user: Any) -> bool:
        if on_load is not None:
            on_load(fraction)
        return not stop

    params.progress_callback = lib.llama_progress_callback(on_progress)
    with postponed_sigint(lambda: stop.append(True)):
        model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise library.engine_error(f"{path}: llama.cpp does not load this file.")
    return model


def new_context(lib: ModuleType, model: Any, path: Path, settings: ContextSettings, eval_callback: Any) -> Any:
    """The llama_context. Raises EngineError with llama.cpp's reason."""
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
