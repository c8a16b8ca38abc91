"""`Case`: something that several threads want and one makes."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Case(Generic[Made]):
    """Evidence of one expert, or how rows depend on each other, made once: who wants it meanwhile waits, who is at work
    on another one does not."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: tuple[Made, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(getattr(one, "nbytes", 0) for one in self._made)

    def made(self) -> Made:
        with self._lock:
            if not self._made:
                self._made = (self._make(),)
            return self._made[0]
