"""How far a piece of work has come: what every workflow tells whoever shows it."""

from collections.abc import Callable
from dataclasses import dataclass


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
