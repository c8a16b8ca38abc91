"""`Evidence`: what calibration knows of the inputs of every matrix, as far as it is in memory now.

Whoever fits asks for one walk after the other: `hold(names)` gathers what is needed of those tensors and drops what was
held before, so memory is bounded, and time grows with the number of walks. Sums of squares and the tokens of each
expert are small and stay.

Knows tensors by name and a source of moments. Does not know types or encoders. `of` and `of_expert` are callable from
several threads.
"""

import functools
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ggufkit.encoding.slabs import ONE_BY_ONE
from ggufkit.fitting.case import Case
from ggufkit.fitting.corpus import GROUP_CHUNKS, require_parts
from ggufkit.fitting.couplings import Couplings, is_whole, kept_apart
from ggufkit.fitting.coverage import Coverage, coverage_of
from ggufkit.fitting.moments import ExpertEvidence, Moments
from ggufkit.fitting.notebook import Notebook
from ggufkit.fitting.reading import Reading
from ggufkit.fitting.sources import MomentSource, OnChunk
from ggufkit.fitting.token_weights import Stiffness, TokenWeights
from ggufkit.fitting.walks import Shape
from ggufkit.recipes.quantizable import layer_of
from ggufkit.runtime.machine import choose_threads
from quant.coupling import Coupling
from quant.importance import InputSums

I64Array = NDArray[np.int64]
Weigh = Callable[[OnChunk], TokenWeights]

DEFAULT_MAX_NBYTES = 4 << 30
_SAVE_EVERY_S = 60.0  # what is gathered is kept so often, unless keeping takes more than a twentieth of the time
_CASES_NBYTES = 256 << 20  # experts are kept up to this size, beyond it those in hand: two that are encoded


class Evidence:
    """Evidence by tensor name.

    shapes   (n_expert, n_per_row) of every tensor that may be asked for, in the order of the file
    moments  whether second moments are gathered, `max_nbytes` at a time
    sums     whether sums of squares are
    weigh    measures what each token counts for in the moments, once, before the first of them; None: all count alike
    fitted   whether rows are going to be encoded with error feedback, or with importance alone
    walks    names that are gathered together
    notebook what was gathered by a run that did not end, and is now
    groups   rows of a group by tensor, where rows are encoded together; see `quant.coupling`
    seen     names of the walks that are done
    n_again  readings that were done more than once, for lack of a place where moments could wait
    ahead    asked before a walk is read that the notebook does not have: others may read it, and later ones with it
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
        fitted: bool = True,
        notebook: Notebook | None = None,
        groups: Mapping[str, int] = ONE_BY_ONE,
        on_chunk: OnChunk = lambda *_: None,
    ) -> None:
        self.source, self.shapes, self.on_chunk = source, shapes, on_chunk
        self.notebook = notebook or Notebook(None)
        self.on_weighed: OnChunk = lambda *_: None
        self.weights: TokenWeights | None = None  # of the corpus, from the first walk on
        self.ahead: Callable[[frozenset[str]], None] | None = None
        self.with_moments, self.with_sums, self.weigh, self.fitted = moments, sums, weigh, fitted
        self.groups = groups if moments else ONE_BY_ONE
        self.walks = source.walks(shapes, max_nbytes) if moments else [frozenset(shapes)] if shapes else []
        self.sums: dict[str, InputSums] = {}
        self.counts: dict[str, I64Array] = {}  # tokens of each expert, of the walks that are done
        self.seen: frozenset[str] = frozenset()
        self._n_tokens = 0
        self.walk_in_hand = 0  # number of the walk that is read now, or was last
        self.n_again = 0
        self._saved_chunks = 0  # of the reading in hand
        self._held: frozenset[str] = frozenset()
        self._moments: dict[str, Moments] = {}
        self._cases: OrderedDict[tuple[str, int, bool], Case[ExpertEvidence]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(source.corpus.threads or choose_threads().n)  # adds moments, factors them
        self._couplings = Couplings(self.groups, self._pool.map)

    @property
    def coverage(self) -> Coverage:
        """Tokens that each expert of each layer saw, as far as walks are done."""
        return coverage_of(self.counts, self._n_tokens)

    @property
    def routed_layers(self) -> tuple[int, ...]:
        """Numbers of the layers with experts."""
        return tuple(sorted({layer_of(name) for name, (n_expert, _) in self.shapes.items() if n_expert > 1}))

    def place(self, name: str) -> int:
        """When the tensor's evidence is best asked for: the number of its walk."""
        return next((i for i, names in enumerate(self.walks) if name in names), -1)

    def hold(self, names: frozenset[str]) -> None:
        """Load the evidence of these tensors, one of `walks`, and only theirs. Raises InputError for a text
        that is too short to judge on, and what sources raise."""
        if names == self._held:
            return
        self._held, self._moments = frozenset(), {}
        self._cases.clear()
        self._take(names, self._read(names))
        self._held = names

    def know(self, names: frozenset[str]) -> None:
        """Have what is small of these tensors, one of `walks`: sums and counts. Gathers only what nobody has kept."""
        if not names <= self.seen and not self._take_small(names):
            self.hold(names)

    @property
    def kept(self) -> str:
        """What a run that continues need not gather again, in words."""
        n_walks = sum(names <= self.seen for names in self.walks)
        chunks = f" and {self._saved_chunks} chunks of the next" if self._saved_chunks else ""
        return f"{n_walks} of {len(self.walks)} readings of the calibration text{chunks}"

    def drop(self, names: frozenset[str]) -> None:
        """These tensors are encoded: their moments are not asked for again."""
        self.notebook.drop(self.label(names))

    def _read(self, names: frozenset[str]) -> Reading:
        """One reading of the corpus, from where an earlier run left it, and kept every now and then."""
        self._weigh_tokens()
        if self.ahead is not None and self.with_moments and not self.notebook.has(self.label(names)):
            self.ahead(names)
        reading = Reading(names, self.weights, self._pool.map, moments=self.with_moments, sums=self.with_sums)
        reading.restore(self.notebook.load(self.label(names)))
        if reading.n_chunk:
            return reading
        saved, self.walk_in_hand = time.monotonic(), self.walks.index(names)
        self.n_again += names <= self.seen

        def on_chunk(done: int, total: int) -> None:
            nonlocal saved
            pause, started = max(_SAVE_EVERY_S, 20 * reading.save_seconds), time.monotonic()
            if self.source.starts_anywhere and done % GROUP_CHUNKS == 0 and started - saved > pause:
                reading.n_group = done // GROUP_CHUNKS
                if self.notebook.save(self.label(names), reading.state()):
                    self._saved_chunks = done
                saved = time.monotonic()
                reading.save_seconds = saved - started
            self.on_chunk(done, total)

        n_chunk = self.source.observe(reading, on_chunk, first_group=reading.n_group)
        if self.with_moments:
            require_parts(n_chunk, self.source.corpus.n_ctx)
        reading.n_chunk, self._saved_chunks = n_chunk, 0
        for name, arrays in reading.kept_as(self.label(names)).items():
            self.notebook.save(name, arrays)
        return reading

    def _weigh_tokens(self) -> None:
        if not self.with_moments or self.weigh is None or self.weights is not None:
            return
        kept = self.notebook.load("weights")
        weights = TokenWeights.restored(kept) if kept else None
        if weights is None or not is_whole(weights.by_name, self.groups, self.notebook):
            weights = self.weigh(self.on_weighed)
            weights = weights.with_all(self.keep_together(weights.by_name))
            self.notebook.save("weights", weights.state())
        self.weights = weights

    def keep_together(self, found: Mapping[str, Stiffness]) -> dict[str, Stiffness]:
        """The same without how rows go together, as far as the notebook has that from now on: it is large."""
        return kept_apart(found, self.notebook)

    def coupling(self, name: str) -> Coupling | None:
        """How a tensor's rows depend on each other; None where they are encoded one by one."""
        stiffness = self.weights and self.weights.by_name.get(name)
        return self._couplings.of(name, stiffness, self.notebook) if stiffness and name in self.groups else None

    def _take(self, names: frozenset[str], reading: Reading) -> None:
        self._n_tokens = reading.n_chunk * self.source.corpus.n_ctx
        self.sums |= reading.sums.sums
        self.counts |= reading.counts
        self.seen |= names
        self._moments = reading.moments.moments

    def _take_small(self, names: frozenset[str]) -> bool:
        reading = Reading(names, None, map, moments=self.with_moments, sums=self.with_sums)
        reading.restore(self.notebook.load(f"{self.label(names)}-small"))
        if reading.n_chunk:
            self._take(names, reading)
        return reading.n_chunk > 0

    def label(self, names: frozenset[str]) -> str:
        """What the notebook calls the walk of these tensors."""
        return "walk-" + hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()[:16]

    def of(self, name: str) -> Moments | None:
        """Moments of a tensor, None where nothing was seen of its inputs. Those of its walk are held from then on."""
        if name not in self._held:
            walk = next((names for names in self.walks if name in names), None)
            if walk is None:
                return None
            with self._lock:
                self.hold(walk)
        found = self._moments.get(name)
        if found is None or found.is_empty:
            return None
        for other in self._moments.values():
            if other is not found:
                other.forget()
        return found

    def of_expert(self, name: str, expert: int, *, whole: bool = False) -> ExpertEvidence | None:
        """Evidence of one expert, of the whole text or to be judged; made once while experts are asked for in order."""
        moments = self.of(name)
        if moments is None:
            return None
        key = (name, expert, whole)
        with self._lock:
            case = self._cases.get(key)
            if case is None:
                n_others = int(whole)  # costs are found out expert by expert
                while len(self._cases) > n_others and sum(one.nbytes for one in self._cases.values()) > _CASES_NBYTES:
                    self._cases.popitem(last=False)
                case = self._cases[key] = Case(functools.partial(self._made, moments, expert, whole))
        return case.made()

    def _made(self, moments: Moments, expert: int, whole: bool) -> ExpertEvidence:
        return moments.of_expert(expert, whole=whole, each=self._pool.map)
