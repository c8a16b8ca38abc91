"""Coverage: how often calibration visited each expert of each layer, and which it hardly knows.

Knows counts and tensor names. Does not know where the counts come from; one number a router, not one a projection.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggufkit.recipes.quantizable import layer_of

I64Array = NDArray[np.int64]
# An expert with fewer tokens than a row has columns cannot even fill the rank of its input covariance.
MIN_TOKENS = 256


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


def coverage_of(counts: Mapping[str, I64Array], n_tokens: int | None = None) -> Coverage:
    """Coverage by layer, from one expert stack of each.

    counts    (n_expert,) tokens by tensor name
    n_tokens  that plain tensors saw; None looks it up in `counts`
    """
    by_layer: dict[int, I64Array] = {}
    plain = 0
    for name, tokens in counts.items():
        if len(tokens) > 1 and "_exps." in name:  # stacks of another kind (a matrix a head) see every token
            by_layer.setdefault(layer_of(name), tokens)
        elif len(tokens) == 1:
            plain = max(plain, int(tokens[0]))
    layers = tuple(LayerCoverage(layer, by_layer[layer]) for layer in sorted(by_layer))
    return Coverage(plain if n_tokens is None else n_tokens, layers)
