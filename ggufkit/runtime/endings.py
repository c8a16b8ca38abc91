"""What ends a text besides the model: a stop string, or the same few tokens over and over."""

from collections.abc import Collection

LOOP_NTOKENS, LOOP_PERIOD, LOOP_EVERY = 256, 64, 64


class StopMatcher:
    """Finds the first stop string in a stream, however it is cut into pieces. Holds back what may become one."""

    def __init__(self, stops: Collection[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Text that is certain not to belong to a stop string. `found` is set once one is complete."""
        held = self._held + text
        hits = [(held.find(stop), stop) for stop in self._stops if stop in held]
        if hits:
            at, self.found = min(hits)
            self._held = ""
            return held[:at]
        keep = self._longest_start(held)
        cut = len(held) - keep
        self._held = held[cut:]
        return held[:cut]

    def finish(self) -> str:
        """What was held back and never became a stop string."""
        held, self._held = self._held, ""
        return held

    def _longest_start(self, held: str) -> int:
        """Length of the longest end of `held` that begins a stop string."""
        most = min(len(held), max(len(stop) for stop in self._stops) - 1)
        return next((n for n in range(most, 0, -1) if any(stop.startswith(held[-n:]) for stop in self._stops)), 0)


def find_loop(tokens: list[int]) -> int:
    """The shortest period, up to LOOP_PERIOD, with which the last LOOP_NTOKENS `tokens` repeat; 0 for none."""
    tail = tokens[-LOOP_NTOKENS:]
    if len(tail) < LOOP_NTOKENS:
        return 0
    return next((n for n in range(1, LOOP_PERIOD + 1) if tail[-1] == tail[-1 - n] and tail[n:] == tail[:-n]), 0)
