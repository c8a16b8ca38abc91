"""Who works on slabs: `threads` of this process, or `distributed`, the workers of a cluster."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from ggufkit.encoding.slabs import Slab

if TYPE_CHECKING:
    from ggufkit.cluster.tasks import Cluster
    from ggufkit.encoding.pipeline import SlabWork


class Executor(Protocol):
    """Does the work on every slab, in any order, several at a time. The first error stops it and is raised."""

    @property
    def n_slabs(self) -> int:
        """Slabs that are in memory at once, for the planned memory."""
        ...

    @property
    def cluster(self) -> "Cluster | None":
        """Workers that can be sent other work, too."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of who worked."""
        ...

    def run(self, slabs: Iterator[Slab], work: "SlabWork") -> None: ...
