"""`Evidence`: the moments that are in memory now.

Moments are gathered when they are first asked for, those of one walk through the text together, and dropped when later
ones are gathered; so memory is bounded, and time grows with the number of walks.

Knows tensors by name and a source of moments. Does not know types or encoders. Callable from several threads.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping

from ggufkit.fitting.coverage import Coverage, coverage_of
from ggufkit.fitting.moments import ExpertEvidence, Moments, gather
from ggufkit.fitting.sources import MomentSource, OnChunk
from ggufkit.fitting.walks import Shape
from ggufkit.recipes.quantizable import layer_of

DEFAULT_MAX_NBYTES = 4 << 30
_CASES_NBYTES = 256 << 20  # experts in hand are kept up to this size, and two of them in any case


class Evidence:
    """Moments by tensor name. `shapes`: (n_expert, n_per_row) of every tensor that may be asked for, in the order in
    which they will be."""

    def __init__(
        self,
        source: MomentSource,
        shapes: Mapping[str, Shape],
        *,
        max_nbytes: int = DEFAULT_MAX_NBYTES,
        on_chunk: OnChunk = lambda *_: None,
    ) -> None:
        self.source, self.on_chunk = source, on_chunk
        self._walks = source.walks(shapes, max_nbytes)
        self._lock, self._cases_lock = threading.Lock(), threading.Lock()
        self._held: dict[int, dict[str, Moments]] = {}  # by walk; the last two stay, for workers that are not done
        self._cases: OrderedDict[tuple[str, int], ExpertEvidence] = OrderedDict()
        self._experts = _routed(shapes)
        self._coverage: Coverage | None = None

    @property
    def n_walks(self) -> int:
        """Walks through the text that all tensors together take."""
        return len(self._walks)

    @property
    def coverage(self) -> Coverage:
        """Tokens that each expert of each layer saw. The first walk counts them."""
        with self._lock:
            if self._coverage is None:
                self._held[0] = self._gather(self._walks[0])
            assert self._coverage is not None
            return self._coverage

    def of(self, name: str) -> Moments | None:
        """Moments of a tensor, None where nothing was seen of its inputs. Walks through the text where needed."""
        walk = next((i for i, names in enumerate(self._walks) if name in names), None)
        if walk is None:
            return None
        with self._lock:
            if walk not in self._held:
                self._held = {i: self._held[i] for i in list(self._held)[-1:]}
                self._held[walk] = self._gather(self._walks[walk])
            found = self._held[walk].get(name)
        return None if found is None or found.is_empty else found

    def of_expert(self, name: str, expert: int) -> ExpertEvidence | None:
        """Evidence of one expert; made once while experts are asked for in order."""
        moments = self.of(name)
        if moments is None:
            return None
        with self._cases_lock:  # others that want the same one wait for it
            found = self._cases.get((name, expert))
            if found is None:
                while len(self._cases) > 1 and sum(case.nbytes for case in self._cases.values()) > _CASES_NBYTES:
                    self._cases.popitem(last=False)
                found = self._cases[name, expert] = moments.of_expert(expert)
        return found

    def _gather(self, names: frozenset[str]) -> dict[str, Moments]:
        counted = self._experts if self._coverage is None else frozenset()
        got = gather(self.source, names, counted=counted, on_chunk=self.on_chunk)
        if self._coverage is None:
            self._coverage = coverage_of(got.counts, got.n_chunk * self.source.corpus.n_ctx)
        return got.moments


def _routed(shapes: Mapping[str, Shape]) -> frozenset[str]:
    """One expert stack of every layer that has some."""
    by_layer = {layer_of(name): name for name, (n_expert, _) in shapes.items() if n_expert > 1}
    return frozenset(by_layer.values())
