"""What a person who looks at a bar expects: it never goes back."""

import itertools
import re
from collections.abc import Sequence

from ggufkit.progress import Progress

_STEP = re.compile(r"step (\d+) of (\d+), (.+?) (\d+) %(?: |$)")


def steps_of(told: Sequence[Progress]) -> list[str]:
    """Titles of the steps that were shown, each once, in their order."""
    return [title for title, _ in itertools.groupby(_shown(one)[2] for one in told)]


def assert_forwards(told: Sequence[Progress], *, ends: bool = True) -> None:
    """No part of the whole, no number of a step and no percentage of one falls; the end is the end."""
    parts, shown = [one.part for one in told], [_shown(one) for one in told]
    assert parts and parts == sorted(parts) and parts[-1] <= 1
    come = [(number, percent) for number, _, _, percent in shown]
    assert come == sorted(come)
    assert len({n for _, n, _, _ in shown}) == 1 and shown[-1][0] <= shown[-1][1]
    assert len({title for _, _, title, _ in shown}) == len({number for number, *_ in shown})
    assert all(one.left is not None and one.left >= 0 for one in told)
    if ends:
        assert parts[-1] == 1 and told[-1].left == 0


def _shown(progress: Progress) -> tuple[int, int, str, int]:
    found = _STEP.match(progress.what)
    assert found, progress.what
    return int(found[1]), int(found[2]), found[3], int(found[4])
