"""`Evidence`: what calibration knows of the inputs of every matrix, as far as it is in memory now.

Whoever fits asks for one walk after the other: `hold(names)` gathers what is needed of those tensors and drops what was
held before, so memory is bounded, and time grows with the number of walks. Sums of squares and the tokens of each
expert are small and stay.

Knows tensors by name and a source of moments. Does not know types or encoders. `of` and `of_expert` are callable from
several threads.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError
from ggufkit.fitting.corpus import GROUP_CHUNKS
from ggufkit.fitting.coverage import Coverage, coverage_of
from ggufkit.fitting.moments import ExpertEvidence, Moments, MomentsObserver
from ggufkit.fitting.sources import MomentSource, Observer, OnChunk
from ggufkit.fitting.sums import SumsObserver
from ggufkit.fitting.token_weights import TokenWeights
from ggufkit.fitting.walks import Shape
from ggufkit.recipes.quantizable import layer_of
from ggufkit.runtime.activations import Activations
from quant.importance import InputSums

I64Array = NDArray[np.int64]
Weigh = Callable[[OnChunk], TokenWeights]

DEFAULT_MAX_NBYTES = 4 << 30
_CASES_NBYTES = 256 << 20  # experts in hand are kept up to this size, and two of them in any case


class Evidence:
    """Evidence by tensor name.

    shapes   (n_expert, n_per_row) of every tensor that may be asked for, in the order of the file
    moments  whether second moments are gathered, `max_nbytes` at a time
    sums     whether sums of squares are
    weigh    measures what each token counts for in the moments, once, before the first of them; None: all count alike
    walks    names that are gathered together
    seen     names of the walks that are done
    """

    def __init__(
        self,
        source: MomentSource,
        shapes: Mapping[str, Shape],
        *,
        moments: bool = True,
        sums: bool = False,
        max_nbytes: int = DEFAULT_MAX_NBYTES,
        weigh: Weigh | None = None,
        on_chunk: OnChunk = lambda *_: None,
    ) -> None:
        self.source, self.shapes, self.on_chunk = source, shapes, on_chunk
        self.on_weighed: OnChunk = lambda *_: None
        self.weights: TokenWeights | None = None  # of the corpus, from the first walk on
        self._with_moments, self._with_sums, self._weigh = moments, sums, weigh
        self.walks = source.walks(shapes, max_nbytes) if moments else [frozenset(shapes)] if shapes else []
        self.sums: dict[str, InputSums] = {}
        self.counts: dict[str, I64Array] = {}  # tokens of each expert, of the walks that are done
        self.seen: frozenset[str] = frozenset()
        self._n_tokens = 0
        self._held: frozenset[str] = frozenset()
        self._moments: dict[str, Moments] = {}
        self._cases: OrderedDict[tuple[str, int], ExpertEvidence] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def coverage(self) -> Coverage:
        """Tokens that each expert of each layer saw, as far as walks are done."""
        return coverage_of(self.counts, self._n_tokens)

    @property
    def routed_layers(self) -> tuple[int, ...]:
        """Numbers of the layers with experts."""
        return tuple(sorted({layer_of(name) for name, (n_expert, _) in self.shapes.items() if n_expert > 1}))

    def hold(self, names: frozenset[str]) -> None:
        """Have the evidence of these tensors, one of `walks`, and of no others, in memory. Raises InputError for a text
        that is too short to judge on, and what sources raise."""
        if names == self._held:
            return
        self._held, self._moments = frozenset(), {}
        self._cases.clear()
        if self._with_moments and self._weigh is not None and self.weights is None:
            self.weights = self._weigh(self.on_weighed)
        of_moments, of_sums = MomentsObserver(names, self.weights), SumsObserver(names.__contains__)
        observers: list[Observer] = [of_moments] if self._with_moments else []
        observers += [of_sums] if self._with_sums and not names <= self.seen else []
        n_chunk = self.source.observe(_All(observers), self.on_chunk)
        n_ctx = self.source.corpus.n_ctx
        if self._with_moments and n_chunk <= GROUP_CHUNKS:
            raise InputError(
                f"the calibration text has {n_chunk} chunks of {n_ctx} tokens; fitting needs more than {GROUP_CHUNKS}, "
                "a part to fit on and a part to judge on. Pass more text, or --effort fast."
            )
        self._n_tokens = n_chunk * n_ctx
        self.sums |= of_sums.sums
        self.counts |= of_moments.counts | {name: sums.counts for name, sums in of_sums.sums.items()}
        self.seen |= names
        self._held, self._moments = names, of_moments.moments

    def of(self, name: str) -> Moments | None:
        """Moments of a tensor, None where nothing was seen of its inputs. Those of its walk are held from then on."""
        if name not in self._held:
            walk = next((names for names in self.walks if name in names), None)
            if walk is None:
                return None
            with self._lock:
                self.hold(walk)
        found = self._moments.get(name)
        return None if found is None or found.is_empty else found

    def of_expert(self, name: str, expert: int) -> ExpertEvidence | None:
        """Evidence of one expert; made once while experts are asked for in order."""
        moments = self.of(name)
        if moments is None:
            return None
        with self._lock:  # others that want the same one wait for it
            found = self._cases.get((name, expert))
            if found is None:
                while len(self._cases) > 1 and sum(case.nbytes for case in self._cases.values()) > _CASES_NBYTES:
                    self._cases.popitem(last=False)
                found = self._cases[name, expert] = moments.of_expert(expert)
        return found


class _All:
    """Several observers of one reading."""

    def __init__(self, observers: list[Observer]) -> None:
        self._observers = observers

    def wants(self, name: str) -> bool:
        return any(one.wants(name) for one in self._observers)

    def begin_group(self, index: int) -> None:
        for one in self._observers:
            one.begin_group(index)

    def __call__(self, seen: Activations) -> None:
        for one in self._observers:
            if one.wants(seen.name):
                one(seen)
