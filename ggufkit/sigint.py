"""Ctrl-C that is heard wherever it comes, and Ctrl-C while something must come to its end first.

Python raises KeyboardInterrupt in whatever frame is running. In a function that C called (llama.cpp, the garbage
collector, a weak reference) or in `__del__` it is printed and dropped, and the command goes on as if nobody had pressed
a key. `hear` sets a handler that waits until such a frame is left, where it can know it: what C calls of ours is marked
with `called_from_c`, and so is done to its end. Where it cannot know it, a library's function, what Python is about to
drop comes back to `_on_dropped`, and the signal is sent again.
"""

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])

_AGAIN = 0.01  # seconds until Ctrl-C is tried again
_from_c: set[CodeType] = set()


def called_from_c(function: _F) -> _F:
    """Mark a function whose exceptions nobody gets, as C calls it."""
    _from_c.add(function.__code__)
    return function


def hear() -> None:
    """Raise KeyboardInterrupt only where it is not dropped. Nothing where somebody has set a handler of his own."""
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_sigint)
        sys.unraisablehook = _on_dropped(sys.unraisablehook)


def _on_dropped(otherwise: Callable[["sys.UnraisableHookArgs"], Any]) -> Callable[["sys.UnraisableHookArgs"], None]:
    @called_from_c
    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            _thread.start_new_thread(_send_again, ())
        else:
            otherwise(dropped)

    return hook


def _on_sigint(number: int, frame: FrameType | None) -> None:
    if _is_dropped(frame):
        _thread.start_new_thread(_send_again, ())  # not threading's: its locks may be held by who was interrupted
    else:
        signal.default_int_handler(number, frame)


def _is_dropped(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _from_c or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _send_again() -> None:
    time.sleep(_AGAIN)
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, signal.SIGINT)  # wakes it, too, where it waits for something
    else:
        _thread.interrupt_main()


@contextmanager
def postponed_sigint(on_sigint: Callable[[], None]) -> Iterator[None]:
    """Call `on_sigint` at Ctrl-C instead of the present handler, which gets the signal on leaving."""
    previous = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if not callable(previous):  # another thread's affair, or SIG_IGN: stays as it is
        yield
        return
    caught: list[int] = []

    def handler(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        on_sigint()

    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if caught:
            signal.raise_signal(signal.SIGINT)
