"""Threads take every slab once, and the first error ends them all."""

import threading
import time

import pytest

from ggufkit.encoding.executors.threads import Threads
from ggufkit.encoding.slabs import Slab


def some(n: int) -> list[Slab]:
    return [Slab(None, 0, i, i + 1, i, 1) for i in range(n)]  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 3])
def test_every_slab_is_done_once(n: int) -> None:
    done: list[int] = []
    Threads(n).run(iter(some(200)), lambda slab: done.append(slab.offset))
    assert sorted(done) == list(range(200))


def test_so_many_slabs_are_in_memory_at_once_as_is_said() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def work(_: Slab) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1

    threads = Threads(2)
    threads.run(iter(some(40)), work)
    assert most == threads.n_slabs == 3


def test_the_first_error_stops_the_others() -> None:
    done: list[int] = []

    def work(slab: Slab) -> None:
        if slab.offset == 5:
            raise ValueError("the disk is gone")
        done.append(slab.offset)
        time.sleep(0.001)

    with pytest.raises(ValueError, match="the disk is gone"):
        Threads(2).run(iter(some(10_000)), work)
    assert len(done) < 5000
