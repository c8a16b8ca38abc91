"""Encoders that calibrate: each expert is encoded for its own inputs.

    fast      importance only: one walk through the text for sums of squares
    balanced  error feedback, then 2 rounds of refinement
    best      error feedback, then 16 rounds of refinement

With error feedback there are two forms of each row, that one and one searched with importance; the one with less
output error on held-out text is stored. Knows evidence and efforts. Does not know how types were chosen or files are
written.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Container
from enum import StrEnum

import gguf
import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.encoding.pipeline import BYTES_PER_WEIGHT
from ggufkit.fitting.coverage import Coverage, coverage_of
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.moments import ExpertEvidence
from ggufkit.fitting.sources import MomentSource, OnChunk
from ggufkit.fitting.sums import SumsObserver
from ggufkit.formats.model import KV
from ggufkit.recipes.plan import PlannedTensor
from quant import feedback
from quant.grid import has_grid
from quant.importance import importance

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]


class Effort(StrEnum):
    """How long to look for better bytes."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


REFINE_ROUNDS = {Effort.FAST: 0, Effort.BALANCED: 2, Effort.BEST: 16}
_FEEDBACK_BYTES = 48  # a weight, on top of a plain slab's: what is left, levels, scales, offsets, gradient, changes


def bytes_per_weight(effort: Effort) -> int:
    """Bytes that each weight of a slab in work takes."""
    return BYTES_PER_WEIGHT + (0 if effort is Effort.FAST else _FEEDBACK_BYTES)


class Calibrated:
    """What the encoders share: which tensors they cover, and what decides their bytes besides weights and plan.

    tally        rows stored fitted and plain, by tensor: what the report says of the fit
    held_nbytes  bytes that it keeps in memory while slabs are encoded
    """

    def __init__(self, covers: Container[str], source: MomentSource, effort: Effort, held_nbytes: int = 0) -> None:
        self.covers, self.source, self.effort, self.held_nbytes = covers, source, effort, held_nbytes
        self.tally: dict[str, Counter[str]] = {}
        self._lock = threading.Lock()

    @property
    def bytes_per_weight(self) -> int:
        return bytes_per_weight(self.effort)

    @property
    def coverage(self) -> Coverage:
        """Tokens that each expert saw. Walks through the text where that has not been done."""
        raise NotImplementedError

    @property
    def identity(self) -> str:
        """All that decides the bytes besides weights and plan."""
        return f"fit {self.effort} {self.source.identity}"

    @property
    def metadata(self) -> tuple[KV, ...]:
        """What the file owes to calibration; no paths."""
        kind, corpus = gguf.GGUFValueType, self.source.corpus
        rows = [
            KV("ggufkit.fit.effort", kind.STRING, str(self.effort)),
            KV("ggufkit.fit.text_sha256", kind.STRING, hashlib.sha256(corpus.text.encode()).hexdigest()),
            KV("ggufkit.fit.n_ctx", kind.UINT32, corpus.n_ctx),
        ]
        if corpus.n_tokens is not None:
            rows.append(KV("ggufkit.fit.n_tokens", kind.UINT32, corpus.n_tokens))
        if corpus.type_name:
            rows.append(KV("ggufkit.fit.quick_type", kind.STRING, corpus.type_name))
        layers = self.coverage.layers
        if layers:
            least, median = ([int(f(row.counts)) for row in layers] for f in (np.min, np.median))
            rows += [
                KV("ggufkit.fit.expert_tokens.least", kind.ARRAY, least, kind.UINT32),
                KV("ggufkit.fit.expert_tokens.median", kind.ARRAY, median, kind.UINT32),
            ]
        return tuple(rows)


class ImportanceEncoder(Calibrated):
    """Row encoder of `workflows.quantize` for the effort fast: what `calibrate` and then --imatrix would give."""

    def __init__(
        self, covers: Container[str], source: MomentSource, on_chunk: OnChunk = lambda *_: None, held_nbytes: int = 0
    ) -> None:
        super().__init__(covers, source, Effort.FAST, held_nbytes)
        self._on_chunk = on_chunk
        self._known: tuple[dict[str, F32Array], Coverage] | None = None

    def __call__(self, planned: PlannedTensor, expert: int, w: F32Array) -> U8Array:
        known = self._gathered()[0].get(planned.name) if planned.qtype.is_quantized else None
        return quant.quantize(w, planned.qtype, importance=None if known is None else known[expert])

    @property
    def coverage(self) -> Coverage:
        return self._gathered()[1]

    def _gathered(self) -> tuple[dict[str, F32Array], Coverage]:
        with self._lock:
            if self._known is None:
                observer = SumsObserver(self.covers.__contains__)
                self.source.observe(observer, self._on_chunk)
                means = {name: importance(sums) for name, sums in observer.sums.items()}
                self._known = means, coverage_of({name: sums.counts for name, sums in observer.sums.items()})
        return self._known


class FittedEncoder(Calibrated):
    """Row encoder of `workflows.quantize` with error feedback, called from several threads."""

    def __init__(self, evidence: Evidence, covers: Container[str], effort: Effort, held_nbytes: int = 0) -> None:
        super().__init__(covers, evidence.source, effort, held_nbytes)
        self._evidence = evidence

    @property
    def coverage(self) -> Coverage:
        return self._evidence.coverage

    def __call__(self, planned: PlannedTensor, expert: int, w: F32Array) -> U8Array:
        qtype = planned.qtype
        known = self._evidence.of_expert(planned.name, expert) if qtype.is_quantized else None
        if known is None:
            return quant.quantize(w, qtype)
        plain = quant.quantize(w, qtype, importance=known.importance)
        if not fits(qtype, known):
            return plain
        fitted = feedback.encode(w, qtype, known.curve, n_refine=REFINE_ROUNDS[self.effort])
        errors = (feedback.row_errors(w, form, qtype, known.held_out) for form in (fitted, plain))
        better = next(errors) < next(errors)
        with self._lock:
            tally = self.tally.setdefault(planned.name, Counter())
            tally["fitted"] += int(better.sum())
            tally["plain"] += int((~better).sum())
        return np.where(better[:, None], fitted, plain)


def fits(qtype: quant.QuantType, known: ExpertEvidence) -> bool:
    """Whether error feedback can be used: a known layout, and blocks of columns that hold whole blocks of weights."""
    return has_grid(qtype.name) and known.curve.width % qtype.block_size == 0
