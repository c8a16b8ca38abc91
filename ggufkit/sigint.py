"""Ctrl-C while something must come to its end first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


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
