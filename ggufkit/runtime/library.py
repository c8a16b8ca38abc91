"""The llama.cpp library: found, loaded once, its log kept for error messages, its structs checked.

The only place that imports llama_cpp. Its low-level functions alone are used, never its `Llama` class.
Does not know models, contexts or tokens.
"""

import collections
import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ggufkit.errors import EngineError
from ggufkit.sigint import called_from_c, hear
from quant import _ggml as quant_library
from quant import waiting

INSTALL = "Install it: pip install 'llama-cpp-python==0.3.36'"
LOG_DEBUG, LOG_WARN, LOG_ERROR, LOG_CONTINUE = 1, 3, 4, 5  # ggml.h enum ggml_log_level
LogSink = Callable[[int, str], None]

# Defaults that llama.cpp fills in. A struct whose layout moved shows other values in these fields.
_MODEL_DEFAULTS = {"main_gpu": 0, "vocab_only": False, "use_extra_bufts": True, "no_alloc": False}
_CONTEXT_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "flash_attn_type": -1,
    "yarn_ext_factor": -1.0,
    "type_k": 1,
    "type_v": 1,
    "offload_kqv": True,
    "n_samplers": 0,
}


class LogRing:
    """The last lines that llama.cpp logged. Lines arrive in pieces.

    Each engine has one and listens with it while it works; `LOG` gets the rest, such as lines of
    llama.cpp's own threads.
    """

    def __init__(self, size: int = 200) -> None:
        self.lines: collections.deque[tuple[int, str]] = collections.deque(maxlen=size)
        self.sink: LogSink | None = None
        self._level = 0
        self._partial = ""

    def add(self, level: int, text: str) -> None:
        """One piece of a line; a line is complete at its newline."""
        if level != LOG_CONTINUE:
            self._level = level
        *complete, self._partial = (self._partial + text).split("\n")
        for line in complete:
            if self._level != LOG_DEBUG:  # hundreds for each context: they would push out what matters
                self.lines.append((self._level, line))
            if self.sink is not None:
                self.sink(self._level, line)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """What llama.cpp logs on this thread comes here inside."""
        before, _THREAD.ring = _THREAD.ring, self
        try:
            yield
        finally:
            _THREAD.ring = before

    def errors(self, n: int = 4) -> list[str]:
        """The last `n` lines of level error; where there are none, the last warnings."""
        for wanted in (LOG_ERROR, LOG_WARN):
            found = [line for level, line in self.lines if level == wanted and line.strip()]
            if found:
                return found[-n:]
        return []


LOG = LogRing()


class _Thread(threading.local):
    ring = LOG


_THREAD = _Thread()


def engine_error(message: str, log: LogRing | None = None) -> EngineError:
    """An EngineError that carries what llama.cpp said last, to `log` or to who listens on this thread."""
    lines = (log or _THREAD.ring).errors() or LOG.errors()
    said = " llama.cpp said: " + " | ".join(line.strip() for line in lines) if lines else ""
    return EngineError(message + said)


def library_folder() -> Path:
    """Folder of libllama and libggml*, found without loading them. Raises EngineError with what to install."""
    if importlib.util.find_spec("llama_cpp") is None:
        raise EngineError(f"llama-cpp-python is not installed; running models needs it. {INSTALL}")
    return quant_library.library_folder()


@functools.cache
def load() -> ModuleType:
    """llama_cpp's low-level functions, backend initialised, log captured.

    Raises EngineError where the package is absent, its library does not load, or its structs have another layout.
    """
    folder = library_folder()
    waiting.make_cheap()
    try:
        lib: ModuleType = importlib.import_module("llama_cpp.llama_cpp")
    except Exception as error:  # llama_cpp raises RuntimeError, OSError or FileNotFoundError
        raise EngineError(
            f"{folder}: the llama.cpp library does not load ({error}). Reinstall llama-cpp-python."
        ) from error
    hear()
    _capture_log(lib)
    _check_structs(lib)
    lib.llama_backend_init()
    return lib


def _capture_log(lib: ModuleType) -> None:
    @called_from_c
    def on_log(level: int, text: bytes, _user: object) -> None:
        _THREAD.ring.add(level, text.decode("utf-8", errors="replace"))

    callback = lib.llama_log_callback(on_log)
    lib.llama_log_set(callback, None)
    _capture_log.keep = callback  # type: ignore[attr-defined]  # C holds the pointer for the life of the process


def _package_version() -> str:
    """As pip knows it, or as the package says itself where it was put on the path by hand."""
    try:
        return importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module("llama_cpp"), "__version__", "unknown"))


def _check_structs(lib: ModuleType) -> None:
    wanted = (
        ("llama_model_params", lib.llama_model_default_params(), _MODEL_DEFAULTS),
        ("llama_context_params", lib.llama_context_default_params(), _CONTEXT_DEFAULTS),
    )
    for name, struct, defaults in wanted:
        got = {field: getattr(struct, field) for field in defaults}
        if got != defaults:
            raise EngineError(
                f"{name} of the installed llama.cpp has another layout: got {got}, wanted {defaults}. {INSTALL}"
            )
    if ctypes.sizeof(lib.llama_batch) != 56:  # int32 + padding + six pointers
        raise EngineError(f"llama_batch takes {ctypes.sizeof(lib.llama_batch)} bytes, wanted 56. {INSTALL}")


@dataclass(frozen=True, slots=True)
class LibraryInfo:
    """What is installed: versions, where it lies, what it was compiled for."""

    package_version: str
    folder: Path
    system_info: str
    gpu_offload: bool

    @property
    def libllama(self) -> Path | None:
        """The libllama file, None where the folder holds none."""
        return next(iter(sorted(self.folder.glob("*llama.*"))), None)


def info() -> LibraryInfo:
    """Versions and features of the installed library. Loads it."""
    lib = load()
    return LibraryInfo(
        package_version=_package_version(),
        folder=library_folder(),
        system_info=lib.llama_print_system_info().decode(),
        gpu_offload=bool(lib.llama_supports_gpu_offload()),
    )
