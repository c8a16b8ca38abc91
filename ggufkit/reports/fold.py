"""Folds the layers of a list of tensors: blk.0.attn_q, blk.1.attn_q, … become blk.{0-31}.attn_q, one line."""

import re
from collections.abc import Hashable, Iterable
from typing import NamedTuple

_LAYER = re.compile(r"^blk\.(\d+)\.")


class Folded(NamedTuple):
    """Rows that differ in their layer only."""

    name: str
    members: tuple[int, ...]


def fold(rows: Iterable[tuple[str, Hashable]]) -> list[Folded]:
    """Group `(name, what must be equal)`; members are positions in `rows`, groups stand where their first one stood."""
    groups: dict[tuple[str, Hashable], list[tuple[int, int]]] = {}
    for at, (name, same) in enumerate(rows):
        match = _LAYER.match(name)
        layer, pattern = (int(match[1]), _LAYER.sub("blk.{}.", name)) if match else (-1, name)
        groups.setdefault((pattern, same), []).append((layer, at))
    return [
        Folded(pattern.replace("{}", layer_ranges([layer for layer, _ in found])), tuple(at for _, at in found))
        for (pattern, _), found in groups.items()
    ]


def layer_ranges(layers: list[int]) -> str:
    """[0, 1, 2, 5] as {0-2,5}; a single layer as 5."""
    layers = sorted(layers)
    spans: list[list[int]] = []
    for layer in layers:
        if spans and layer == spans[-1][1] + 1:
            spans[-1][1] = layer
        else:
            spans.append([layer, layer])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return text if len(layers) == 1 else "{" + text + "}"
