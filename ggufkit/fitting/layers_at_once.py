"""`LayersAtOnce`: workers that share a folder with the command run several layers at once, each on one of them.

    layer 4 ──pieces──► layer 5 ──pieces──► layer 6
    worker A            worker B            worker C

Every layer takes chunks in one order, so what comes of it has the bits of one process, and each layer's weights are
read by one worker. A worker that dies costs one layer's work. Knows workers, a folder and tasks. Does not know what
layers do.
"""

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ggufkit.cluster.tasks import Cluster, Task
from ggufkit.fitting.sources.pieces import Pieces, WaitedError, is_seen


class Place(NamedTuple):
    """A folder for pieces, and the secret by which workers know it."""

    folder: Path
    secret: str

    def pieces(self, layer: int, shape: tuple[int, int, int]) -> Pieces:
        """Chunks (n_chunk, n_ctx, n_embd) on the side of that layer where it comes in."""
        return Pieces(self.folder, self.secret, layer, *shape)


class LayersAtOnce:
    """threads  of the command, which runs layers alone where that is as fast"""

    def __init__(self, cluster: Cluster, threads: int) -> None:
        self._cluster, self._threads = cluster, threads
        self._are_asked = self._is_shared = False

    @property
    def n(self) -> int:
        """Layers that are worth running at once: one a worker, all of them with threads when one worker dies, and more
        threads in all than this process has. 0: none."""
        cluster = self._cluster
        n = min(cluster.n_workers, cluster.spare_threads)
        return 0 if n * cluster.n_threads <= self._threads * cluster.n_workers else n

    @contextmanager
    def shared(self, kept: Path) -> Iterator[Place | None]:
        """A place in that folder; it goes, and with it all that is unfinished. None where workers do not see it."""
        place = Place((kept / "relay").absolute(), secrets.token_hex(16))
        shutil.rmtree(place.folder, ignore_errors=True)
        place.folder.mkdir()
        try:
            (place.folder / "token").write_text(place.secret)
            yield place if self._share(place) else None
        finally:
            shutil.rmtree(place.folder, ignore_errors=True)

    def run(
        self,
        function: Callable[[Any], Any],
        tasks: Mapping[int, Any],
        on_done: Callable[[int, Any], None] = lambda *_: None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Have `function` called with each task, by layer in the order in which they depend on each other. One that
        gives None came too early, and is sent again.

        on_done  is called with a layer and what came of it
        """
        waiting = dict(tasks)

        def on_result(task: Task, result: Any) -> None:
            if result is not None:
                del waiting[task.tag]
                on_done(task.tag, result)

        while waiting:
            sent = [Task(patient, (function, task), tag=layer) for layer, task in waiting.items()]
            self._cluster.run(sent, on_result, on_wait)

    def _share(self, place: Place) -> bool:
        if not self._are_asked:
            said = self._cluster.ask(is_seen, *place)
            blind = [address for address, seen in said.items() if seen is not True]
            self._cluster.notes += [
                f"worker {address} does not see {place.folder.parent}: the text was read by this process"
                for address in blind[:1]
            ]
            self._are_asked, self._is_shared = True, not blind
        return self._is_shared


def patient(function: Callable[[Any], Any], task: Any) -> Any:
    """On a worker: what comes of the task, None where the layer before was not run by anybody for a long time."""
    try:
        return function(task)
    except WaitedError:
        return None


def worker_threads() -> int:
    """On a worker: threads that it has."""
    from distributed import get_worker

    return int(get_worker().state.nthreads)
