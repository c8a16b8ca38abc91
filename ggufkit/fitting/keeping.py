"""What the notebook keeps of the readings of a text until types are known, and what is gathered twice for lack of room.

Types are chosen when all layers were seen, and encoded after that: until then their moments wait on the disk. Knows
walks, shapes and numbers of bytes. Does not know disks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ggufkit.fitting.walks import Shape, walk_nbytes

AGAIN_TO_TRY, AGAIN = "gathering again to try", "gathering again"  # steps
_BESIDE_NBYTES = 8 << 10  # of a walk, and of each of its tensors: names, counts and checksums


@dataclass(frozen=True, slots=True)
class Kept:
    """Moments of many walks at once.

    nbytes        of the walks that are kept
    again         walks that have no room, in order: they are gathered once more when types are known
    again_nbytes  of these
    """

    nbytes: int = 0
    again: tuple[frozenset[str], ...] = ()
    again_nbytes: int = 0


def kept_in(room: int, walks: Iterable[frozenset[str]], shapes: Mapping[str, Shape]) -> Kept:
    """What of these walks is kept in `room` bytes: in the order in which they are read, each that fits what is left."""
    kept, lacking, again = 0, 0, []
    for names in walks:
        nbytes, beside = walk_nbytes(names, shapes), _BESIDE_NBYTES * (1 + len(names))
        if nbytes + beside <= room:
            kept += nbytes
            room -= nbytes + beside
        else:
            again.append(names)
            lacking += nbytes
    return Kept(kept, tuple(again), lacking)


class Regathering:
    """How far it has come: a walk counts from where the one before it ended, with the layers between them, which are
    run on the way.

    n_walk  numbers of walks that may be read again are below that
    """

    def __init__(self, n_walk: int) -> None:
        self._n_walk = max(1, n_walk)
        self._first, self._walk = 0, -1

    def fraction(self, walk: int, part: float) -> float:
        """Of all of it, with that part of the walk of that number read."""
        if walk != self._walk:
            self._first, self._walk = self._walk + 1, walk
        return min(1.0, (self._first + (walk + 1 - self._first) * part) / self._n_walk)
