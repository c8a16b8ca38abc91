"""Ctrl-C and cancellation inside a long `llama_decode`.

Python runs signal handlers between bytecodes only, and a decode is one C call. llama.cpp asks an abort callback at
every graph node; the callback is Python, so a pending Ctrl-C is seen there. It takes about a microsecond a node, which
is why single tokens are decoded without it. Works on CPU; Metal finishes its graph first.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any


class Interrupt:
    """A flag that stops the running decode. `set` from any thread; Ctrl-C sets it while `watching`."""

    def __init__(self, lib: ModuleType) -> None:
        self._lib = lib
        self._flag = False
        self._callback = lib.ggml_abort_callback(lambda _user: self._flag)
        self._none = lib.ggml_abort_callback()

    def set(self) -> None:
        self._flag = True

    @contextmanager
    def watching(self, ctx: Any) -> Iterator[None]:
        """Let `set` and Ctrl-C abort what is decoded inside. A Ctrl-C is delivered again on leaving."""
        self._flag = False
        caught: list[int] = []

        def on_sigint(number: int, _frame: FrameType | None) -> None:
            caught.append(number)
            self._flag = True

        in_main = threading.current_thread() is threading.main_thread()
        previous = signal.getsignal(signal.SIGINT) if in_main else None
        watch = callable(previous)  # SIG_IGN and handlers of C stay as they are
        if watch:
            signal.signal(signal.SIGINT, on_sigint)
        self._lib.llama_set_abort_callback(ctx, self._callback, None)
        try:
            yield
        finally:
            self._lib.llama_set_abort_callback(ctx, self._none, None)
            if watch:
                signal.signal(signal.SIGINT, previous)
            if caught:
                signal.raise_signal(signal.SIGINT)
