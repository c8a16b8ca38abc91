"""Damaged JSON: one value of a document replaced by something a stranger might put there, or removed."""

import copy

JUNK = [
    *(None, True, -1, 0, 1, 1e400, float("nan"), 2**63, 3.5),
    *("", "x", "\ud800", "a" * 300),
    *([], [1], [[]], [None], {}, {"a": 1}),
]


def places(value, path=()):
    """Paths of every value inside; long lists and objects by a few of theirs."""
    yield path
    if isinstance(value, dict):
        for key in list(value)[:40]:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and value:
        for i in sorted({0, len(value) // 2, len(value) - 1}):
            yield from places(value[i], (*path, i))


def damaged(value, rng):
    """A copy of `value` with one place changed, and a line that says how."""
    found = list(places(value))[1:]
    path = found[rng.integers(len(found))]
    junk = JUNK[rng.integers(len(JUNK) + 1) - 1] if rng.random() < 0.9 else ...
    out = copy.deepcopy(value)
    spot = out
    for key in path[:-1]:
        spot = spot[key]
    if junk is ...:
        del spot[path[-1]]
    else:
        spot[path[-1]] = junk
    return out, f"{'/'.join(map(str, path))} := {junk!r:.60}"
