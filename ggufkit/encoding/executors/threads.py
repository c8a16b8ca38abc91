"""Slabs on threads of this process.

There is one worker more than threads, so that a worker that waits for the disk leaves its core to another. Reads ahead
are asked of the kernel.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from ggufkit.encoding.slabs import Slab


@dataclass(frozen=True, slots=True)
class Threads:
    """The `Executor` of one machine: `n` slabs are worked on at any moment."""

    n: int
    notes: tuple[str, ...] = ()
    cluster: None = None

    @property
    def n_slabs(self) -> int:
        return self.n + 1

    def run(self, slabs: Iterator[Slab], work: Callable[[Slab], None]) -> None:
        lock, stop = threading.Lock(), threading.Event()

        def worker() -> None:
            while not stop.is_set():
                with lock:
                    slab = next(slabs, None)
                if slab is None:
                    return
                work(slab)

        with ThreadPoolExecutor(max_workers=self.n_slabs, thread_name_prefix="encode") as pool:
            futures = [pool.submit(worker) for _ in range(self.n_slabs)]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()  # also on Ctrl-C: workers finish the slab in hand, which is then recorded
            for future in done:
                future.result()
