"""Coverage: how often calibration visited each expert of each layer, and which it hardly knows.

Knows counts and tensor names. Does not know where the counts come from; one number a router, not one a projection.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.importance import InputSums

I64Array = NDArray[np.int64]
# An expert with fewer tokens than a row has columns cannot even fill the rank of its input covariance.
MIN_TOKENS = 256
_LAYER = re.compile(r"^blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class LayerCoverage:
    """Tokens that each expert of one layer saw: (n_expert,) int64."""

    layer: int
    counts: I64Array

    @property
    def under_visited(self) -> tuple[int, ...]:
        """Experts with fewer than MIN_TOKENS tokens."""
        return tuple(int(e) for e in np.flatnonzero(self.counts < MIN_TOKENS))


@dataclass(frozen=True, slots=True)
class Coverage:
    """All layers with experts; empty for a dense model.

    n_tokens  that plain tensors saw
    """

    n_tokens: int
    layers: tuple[LayerCoverage, ...]

    @property
    def under_visited(self) -> tuple[tuple[int, int], ...]:
        """(layer, expert) pairs."""
        return tuple((row.layer, expert) for row in self.layers for expert in row.under_visited)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for a person; empty where there is nothing to worry about."""
        rare = self.under_visited
        if not rare:
            return ()
        n_pairs = sum(len(row.counts) for row in self.layers)
        named = ", ".join(f"layer {layer} expert {expert}" for layer, expert in rare[:6])
        more = f" and {len(rare) - 6} more" if len(rare) > 6 else ""
        return (
            f"{len(rare)} of {n_pairs} experts saw fewer than {MIN_TOKENS} tokens ({named}{more}); they lean on their "
            "layer's mean. Add text of other kinds or more tokens.",
        )


def coverage_of(sums: Mapping[str, InputSums]) -> Coverage:
    """Coverage by layer, from the largest expert stack of each."""
    by_layer: dict[int, I64Array] = {}
    n_tokens = 0
    for name, evidence in sums.items():
        match = _LAYER.match(name)
        if len(evidence.counts) > 1 and match:
            by_layer.setdefault(int(match[1]), evidence.counts)
        elif len(evidence.counts) == 1:
            n_tokens = max(n_tokens, int(evidence.counts[0]))
    return Coverage(n_tokens, tuple(LayerCoverage(layer, by_layer[layer]) for layer in sorted(by_layer)))
