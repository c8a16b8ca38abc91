"""Ctrl-C and cancellation inside long C calls: `llama_decode` and loading.

Python runs signal handlers between bytecodes only, and a decode is one C call. llama.cpp asks an abort callback at
every graph node; the callback is Python, so a pending Ctrl-C is seen there. It takes about a microsecond a node, which
is why single tokens are decoded without it. Works on CPU; Metal finishes its graph first.

An exception must not rise inside a callback, where ctypes would print and drop it. So Ctrl-C only sets a flag while
C runs, and is delivered again to the earlier handler once C has returned.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ggufkit.sigint import called_from_c, postponed_sigint


class Interrupt:
    """A flag that stops the running decode. `set` from any thread; Ctrl-C sets it while `watching`."""

    def __init__(self, lib: ModuleType) -> None:
        self._lib = lib
        flag = self._flag = [False]  # of its own: the callback must not keep this, which keeps the callback
        self._callback = lib.ggml_abort_callback(called_from_c(lambda _user: flag[0]))
        self._none = lib.ggml_abort_callback()

    def set(self) -> None:
        """Stop the decode that is running, if one is."""
        self._flag[0] = True

    @contextmanager
    def watching(self, ctx: Any) -> Iterator[None]:
        """Let `set` and Ctrl-C abort what is decoded inside."""
        self._flag[0] = False
        self._lib.llama_set_abort_callback(ctx, self._callback, None)
        try:
            with postponed_sigint(self.set):
                yield
        finally:
            self._lib.llama_set_abort_callback(ctx, self._none, None)
