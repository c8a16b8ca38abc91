"""`Governor`: as many computing threads as there are cores that other programs leave free.

At every operation of a graph the threads wait for the slowest one. Where another program has a core for itself, a
thread there is the slowest by far: two threads on two cores, one of them taken, are slower than one.
Knows /proc/stat; elsewhere the number stays. Does not know models.
"""

import os
from time import perf_counter

EVERY_S = 0.25
# The part of a core that has to be free for a thread of its own; what runs beside now and then takes less.
NEEDED = 0.65


class Governor:
    """Decides how many of `n_most` threads compute. Begins to watch when it is made."""

    def __init__(self, n_most: int) -> None:
        self.n_most = self.n = n_most
        self._at, self._idle, self._own = perf_counter(), idle_seconds(), _own_seconds()

    def look(self) -> int | None:
        """The number of threads where it changes now, else None. Cheap: it looks four times a second at most."""
        now = perf_counter()
        if self._idle is None or now - self._at < EVERY_S:
            return None
        idle, own = idle_seconds(), _own_seconds()
        if idle is None:
            return None
        free = (idle - self._idle + own - self._own) / (now - self._at)  # cores that are idle, or ours
        self._at, self._idle, self._own = now, idle, own
        wanted = max(1, min(self.n_most, int(free + 1 - NEEDED)))
        if wanted == self.n:
            return None
        self.n = wanted
        return wanted


def idle_seconds() -> float | None:
    """Seconds that the CPUs of this process have been idle, all together, since they started; None where not known."""
    try:
        allowed = {f"cpu{n}" for n in os.sched_getaffinity(0)}
        with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123  four times a second
            rows = [line.split() for line in file if line.startswith("cpu")]
        # user nice system idle iowait …: waiting for a disk leaves the CPU free
        return sum(int(row[4]) + int(row[5]) for row in rows if row[0] in allowed) / os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError, ValueError, IndexError):
        return None


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system
