"""How far a piece of work has come: what every workflow reports to the caller."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` in a unit that people read ("bytes", "chunks", "tensors", "%"), and what is in hand."""

    done: float
    total: float
    unit: str
    what: str = ""


OnProgress = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """Nobody looks."""


class Steps:
    """Several steps as one piece of work with one time: how long it has taken, of how long it will take in all.

    seconds  what each step is thought to take, by name in order; corrected by what the steps so far really took

    Steps may take turns: each remembers how far it had come.
    """

    def __init__(self, seconds: Mapping[str, float], on_progress: OnProgress) -> None:
        self._guess = dict(seconds)
        self._on_progress = on_progress
        self._fraction, self._taken = dict.fromkeys(seconds, 0.0), dict.fromkeys(seconds, 0.0)
        self._had: dict[str, float] = {}  # of each step, what was there when this run began it
        self._since = time.monotonic()

    def step(self, name: str) -> OnProgress:
        """What that step is to tell how far it has come. One that nobody thought of takes what it takes."""
        for known in (self._guess, self._fraction, self._taken):
            known.setdefault(name, 0.0)
        number = list(self._guess).index(name) + 1

        def on_progress(progress: Progress) -> None:
            fraction = progress.done / progress.total if progress.total else 0.0
            now = time.monotonic()
            if name not in self._had:
                was_there = now - self._since < _TOO_FAST * self._guess[name] * fraction
                self._had[name] = fraction if was_there else 0.0
            self._taken[name] += now - self._since
            self._since, self._fraction[name] = now, fraction
            done, left = sum(self._taken.values()), sum(self._left(one) for one in self._guess)
            what = f"step {number} of {len(self._guess)}, {name} {100 * fraction:.0f} % {progress.what}".rstrip()
            self._on_progress(replace(progress, done=done, total=done + left, unit="seconds", what=what))

        return on_progress

    def _left(self, name: str) -> float:
        """Seconds that a step still takes: by its own speed once that is known, else as guessed, corrected."""
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


_DOUBT_S = 5.0
_TOO_FAST = 0.1  # of the guess: what comes in less was there
_ENOUGH = 0.05  # of a step: before that, the time to load and to compile makes its speed a wild guess
