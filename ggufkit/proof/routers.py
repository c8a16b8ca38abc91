"""Whether two models with experts send tokens to the same ones, layer by layer.

Watches the experts chosen in both while they are evaluated in step. Does not know figures of text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_source import read_hparams
from ggufkit.runtime.activations import Activations, ActivationTap
from ggufkit.runtime.library import load

I32Array = NDArray[np.int32]

_STACK = re.compile(r"blk\.(\d+)\.ffn_down_exps\.weight")  # every family with experts has this one


@dataclass(frozen=True, slots=True)
class LayerAgreement:
    """Routers of one layer.

    overlap   share of the base's chosen experts that the candidate chose, too
    same_set  share of tokens whose chosen experts are all the same
    n_token   tokens looked at, context included
    """

    layer: int
    overlap: float
    same_set: float
    n_token: int


@dataclass(slots=True)
class _Sums:
    n_token: int = 0
    n_common: int = 0
    n_same: int = 0
    n_used: int = 1


@dataclass(slots=True)
class RouterWatch:
    """Callbacks for the contexts of both models; `settle` after each step of the pair, `result` in the end."""

    base_callback: Any = None
    candidate_callback: Any = None
    _taps: list[ActivationTap] = field(default_factory=list)
    _seen: tuple[dict[int, list[I32Array]], dict[int, list[I32Array]]] = field(default_factory=lambda: ({}, {}))
    _sums: dict[int, _Sums] = field(default_factory=dict)

    @classmethod
    def off(cls) -> Self:
        return cls()

    @classmethod
    def of(cls, base: Path, candidate: Path) -> Self:
        """Watches where both models have experts, does nothing where they have none."""
        watch = cls()
        if min(_n_expert(base), _n_expert(candidate)) > 1:
            watch._taps = [ActivationTap(load(), watch._observer(side), _wants) for side in (0, 1)]
            watch.base_callback, watch.candidate_callback = (tap.callback for tap in watch._taps)
        return watch

    def settle(self) -> None:
        """Compare what both chose since the last time, as far as both have come."""
        for tap in self._taps:
            tap.reraise()
        base, candidate = self._seen
        for layer in base.keys() & candidate.keys():
            while base[layer] and candidate[layer]:
                self._add(layer, base[layer].pop(0), candidate[layer].pop(0))

    def result(self) -> tuple[LayerAgreement, ...]:
        return tuple(
            LayerAgreement(
                layer, sums.n_common / (sums.n_token * sums.n_used), sums.n_same / sums.n_token, sums.n_token
            )
            for layer, sums in sorted(self._sums.items())
            if sums.n_token
        )

    def _observer(self, side: int) -> Callable[[Activations], None]:
        def observe(seen: Activations) -> None:
            match = _STACK.fullmatch(seen.name)
            if match and seen.experts is not None:
                self._seen[side].setdefault(int(match[1]), []).append(seen.experts.copy())

        return observe

    def _add(self, layer: int, base: I32Array, candidate: I32Array) -> None:
        """Chosen experts (n_token, n_used) of the same tokens."""
        if base.shape != candidate.shape:
            return
        common = (base[:, :, None] == candidate[:, None, :]).any(axis=2).sum(axis=1)  # (n_token,)
        sums = self._sums.setdefault(layer, _Sums())
        sums.n_used = base.shape[1]
        sums.n_token += len(base)
        sums.n_common += int(common.sum())
        sums.n_same += int((common == sums.n_used).sum())


def _wants(name: str) -> bool:
    return _STACK.fullmatch(name) is not None


def _n_expert(path: Path) -> int:
    header = GgufFile.open(path)
    header.close()
    return read_hparams(header).n_expert
