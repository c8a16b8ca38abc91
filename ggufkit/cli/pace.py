"""How fast a piece of work goes, how long it still takes, and how a person reads that. Does not print."""

import time

from ggufkit.progress import Progress
from ggufkit.reports.units import human_bytes, human_count, human_seconds

GUESS_FROM = 0.05  # of the whole: before that, the time to compile and to load makes every guess a wild one


class Pace:
    """How fast a piece of work goes.

    elapsed  seconds since it began
    speed    units a second; what an earlier run did tells nothing of it
    left     seconds that it still takes, None before there is something to go by
    """

    def __init__(self) -> None:
        self._started = self._begun = self._now = time.monotonic()
        self._had, self._seen = 0.0, Progress(0, 0, "")

    def see(self, progress: Progress) -> None:
        """How far it has come by now."""
        self._now = time.monotonic()
        is_other = progress.total != self._seen.total
        if is_other or 0 < progress.done <= progress.there:
            self._begun = self._now if self._seen.total or progress.there else self._begun
            self._had = progress.done
        self._seen = progress

    @property
    def elapsed(self) -> float:
        return self._now - self._started

    @property
    def speed(self) -> float:
        seconds = self._now - self._begun
        return (self._seen.done - self._had) / seconds if seconds else 0.0

    @property
    def left(self) -> float | None:
        seen = self._seen
        if seen.left is not None:
            return seen.left
        if not self.speed or seen.done - self._had < GUESS_FROM * seen.total:
            return None
        return (seen.total - seen.done) / self.speed


def amount_of(progress: Progress, pace: Pace, *, percent: bool = False) -> str:
    """What a person reads of an amount, behind its percentage if wanted; large numbers are never spelled out."""
    done, total, unit = progress.done, progress.total, progress.unit
    if unit == "bytes":
        amount = f"{human_bytes(done)} of {human_bytes(total)}"
    elif progress.left is not None:
        amount = f"{human_seconds(pace.elapsed)} of about {human_seconds(pace.elapsed + progress.left)}"
    elif unit == "%":
        amount = ""
    elif total < 100_000:
        amount = f"{done:.0f} of {total:.0f} {unit}"
    else:
        amount = f"{human_count(done)} of {human_count(total)} {unit}"
    shown = [f"{100 * progress.part:.0f} %"] if percent or unit == "%" else []
    return "  ".join([*shown, *([amount] if amount else [])])


def clock(seconds: float) -> str:
    """A time as clocks show it."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
