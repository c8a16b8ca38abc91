"""How far a piece of work has come: what every workflow reports to the caller."""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` in a unit that people read ("bytes", "chunks", "tensors", "%"), and what is in hand.

    there  what of `done` an earlier run had left: it tells nothing of the speed
    step   which of several steps is in hand, by the name that its time is planned by
    left   seconds that all of it still takes, where that is known better than from the speed
    """

    done: float
    total: float
    unit: str
    what: str = ""
    there: float = 0.0
    step: str = ""
    left: float | None = None

    @property
    def part(self) -> float:
        """Done of all of it."""
        return self.done / self.total if self.total else 0.0


OnProgress = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """Nobody looks."""


class Steps:
    """Several steps as one piece of work: how far all of it has come, and how long it still takes.

    seconds  what each step is thought to take, by name in order; corrected by what the steps so far really took
    turns    steps that take turns, by what they are called together: a person sees them as one

    Whatever is told in whatever order, nothing that is shown goes back: once a step is told of, those before it are
    over, and the bar takes what is left of it in what is left of the time. When the last one is done, all is.
    """

    def __init__(
        self, seconds: dict[str, float], on_progress: OnProgress, turns: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        self._on_progress = on_progress
        self._shown = _shown(seconds, turns or {})
        self._guess = dict.fromkeys((name for shown in self._shown for name in shown.names), 0.0) | seconds
        self._last = next(reversed(seconds), "")
        self._at, self._part_shown, self._part = 0, 0.0, 0.0  # number of the shown step in hand, its part, that of all
        self._fraction, self._taken = dict.fromkeys(self._guess, 0.0), dict.fromkeys(self._guess, 0.0)
        self._had: dict[str, float] = {}  # of each step, what was there when this run began it
        self._over: set[str] = set()  # steps that nothing more is expected of
        self._since = time.monotonic()

    def step(self, name: str) -> OnProgress:
        """What that step is to tell how far it has come. One that nobody thought of takes what it takes, as a part of
        the step in hand."""
        return functools.partial(self._told, name)

    def _told(self, name: str, progress: Progress) -> None:
        self._come_to(name)
        now = time.monotonic()
        elapsed, self._since = now - self._since, now
        self._note(name, progress, elapsed)
        if name == self._last and self._fraction[name] == 1:
            self._over.update(self._guess)
        left = sum(self._left(one) for one in self._guess)
        self._part = min(1.0, self._part + (1 - self._part) * (elapsed / (elapsed + left) if left else 1.0))
        self._part_shown = max(self._part_shown, self._part_of_shown())
        where = f"step {self._at + 1} of {len(self._shown)}, {self._shown[self._at].title}"
        what = f"{where} {100 * self._part_shown:.0f} % {progress.what}".rstrip()
        self._on_progress(Progress(100 * self._part, 100, "%", what, step=name, left=left))

    def _come_to(self, name: str) -> None:
        """What is shown before the step is over."""
        at = next((i for i, shown in enumerate(self._shown) if name in shown.names), None)
        if at is None:
            self._shown[self._at].names.append(name)
            self._guess[name] = self._fraction[name] = self._taken[name] = 0.0
        elif at > self._at:
            self._over.update(*(shown.names for shown in self._shown[self._at : at]))
            self._at, self._part_shown = at, 0.0
        self._over.discard(name)

    def _note(self, name: str, progress: Progress, elapsed: float) -> None:
        """How far the step has come by now, and what of that was there."""
        fraction = max(self._fraction[name], progress.part)
        if name not in self._had:
            self._had[name] = fraction if elapsed < _TOO_FAST * self._guess[name] * fraction else 0.0
        if progress.there:
            self._had[name] = max(self._had[name], progress.there / progress.total)
        self._taken[name] += elapsed
        self._fraction[name] = fraction

    def _part_of_shown(self) -> float:
        """Done of the shown step: of the steps in it, each for its time."""
        names = self._shown[self._at].names
        times = {name: self._guess[name] for name in names if self._guess[name]} or dict.fromkeys(names, 1.0)
        return sum(seconds * self._fraction[name] for name, seconds in times.items()) / sum(times.values())

    def _left(self, name: str) -> float:
        """Seconds that a step still takes: by its own speed once that is known, else as guessed, corrected."""
        if name in self._over:
            return 0.0
        came, rest = self._done(name), 1 - self._fraction[name]
        if came > _ENOUGH:
            return self._taken[name] * rest / came
        return self._guess[name] * rest * self._correction()

    def _done(self, name: str) -> float:
        """The part of a step that this run did."""
        return self._fraction[name] - self._had.get(name, 0.0)

    def _correction(self) -> float:
        """How much longer everything takes than was guessed, by what has been done; seconds' worth says little."""
        known = [name for name in self._guess if self._done(name) > _ENOUGH]
        guessed = sum(self._guess[name] * self._done(name) for name in known)
        return (sum(self._taken[name] for name in known) + _DOUBT_S) / (guessed + _DOUBT_S)


class _Shown(NamedTuple):
    """What a person sees as one step."""

    title: str
    names: list[str]


def _shown(seconds: Mapping[str, float], turns: Mapping[str, tuple[str, ...]]) -> list[_Shown]:
    """Steps as they are shown, in their order, with those that nobody thought of but that would take turns with one."""
    together = {name: title for title, names in turns.items() for name in names}
    by_title: dict[str, list[str]] = {}
    for name in seconds:
        by_title.setdefault(together.get(name, name), []).append(name)
    return [
        _Shown(title, [*names, *(name for name in turns.get(title, ()) if name not in names)])
        for title, names in by_title.items()
    ]


_DOUBT_S = 5.0
_TOO_FAST = 0.1  # of the guess: what comes in less was there
_ENOUGH = 0.05  # of a step: before that, the time to load and to compile makes its speed a wild guess
