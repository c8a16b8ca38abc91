"""Who works on slabs. An `Executor` takes slabs and a function for each; `threads` works in this process."""

from collections.abc import Callable, Iterator
from typing import Protocol

from ggufkit.encoding.slabs import Slab


class Executor(Protocol):
    """Calls a function for every slab, in any order, several at a time. The first error stops it and is raised."""

    @property
    def n_slabs(self) -> int:
        """Slabs that are in memory at once, for the planned memory."""
        ...

    def run(self, slabs: Iterator[Slab], work: Callable[[Slab], None]) -> None: ...
