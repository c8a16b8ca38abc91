"""`FittedEncoder`: encodes each expert for its own inputs, and keeps a row's fitted form only where it proves better.

Knows evidence and efforts. Does not know how types were chosen or files are written. Of each row there are two forms,
one searched with importance and one with error feedback; the one with less output error on held-out text is stored.

    fast      importance only: one walk through the text for sums of squares
    balanced  error feedback, then 2 rounds of refinement
    best      error feedback, then 16 rounds of refinement
"""

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Container
from enum import StrEnum

import gguf
import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.formats.model import KV
from ggufkit.recipes.plan import PlannedTensor
from ggufkit.workflows.evidence import Corpus, Evidence, Moments
from quant import feedback
from quant.grid import has_grid

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]


class Effort(StrEnum):
    """How long to look for better bytes."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


REFINE_ROUNDS = {Effort.FAST: 0, Effort.BALANCED: 2, Effort.BEST: 16}
_CACHED_CURVES = 16


class FittedEncoder:
    """Row encoder of `workflows.quantize`, called from several threads.

    covered  names that have evidence
    tally    rows stored fitted and plain, by tensor: what the report says of the fit
    """

    def __init__(self, evidence: Evidence, covered: Container[str], corpus: Corpus, effort: Effort) -> None:
        self._evidence, self._covered, self._corpus, self._effort = evidence, covered, corpus, effort
        self._curves: OrderedDict[tuple[str, int], feedback.Curvature] = OrderedDict()
        self._lock = threading.Lock()
        self.tally: dict[str, Counter[str]] = {}

    @property
    def covers(self) -> Container[str]:
        return self._covered

    @property
    def identity(self) -> str:
        """All that decides the bytes besides weights and plan."""
        corpus = self._corpus
        text = hashlib.sha256(corpus.text.encode()).hexdigest()
        return f"fit {self._effort} {text} {corpus.n_tokens} {corpus.n_ctx}"

    @property
    def metadata(self) -> tuple[KV, ...]:
        """What the file owes to calibration; no paths."""
        kind, corpus = gguf.GGUFValueType, self._corpus
        rows = [
            KV("ggufkit.fit.effort", kind.STRING, str(self._effort)),
            KV("ggufkit.fit.text_sha256", kind.STRING, hashlib.sha256(corpus.text.encode()).hexdigest()),
            KV("ggufkit.fit.n_ctx", kind.UINT32, corpus.n_ctx),
        ]
        if corpus.n_tokens is not None:
            rows.append(KV("ggufkit.fit.n_tokens", kind.UINT32, corpus.n_tokens))
        return tuple(rows)

    def __call__(self, planned: PlannedTensor, expert: int, w: F32Array) -> U8Array:
        qtype = planned.qtype
        moments = self._evidence.of(planned.name) if qtype.is_quantized else None
        if moments is None:
            return quant.quantize(w, qtype)
        fit, held_out = moments.of_expert(expert)
        plain = quant.quantize(w, qtype, importance=_importance(fit))
        if self._effort is Effort.FAST or not fits(qtype, fit):
            return plain
        curve = self._curve(planned.name, expert, moments)
        fitted = feedback.encode(w, qtype, curve, n_refine=REFINE_ROUNDS[self._effort])
        better = feedback.row_errors(w, fitted, qtype, held_out) < feedback.row_errors(w, plain, qtype, held_out)
        with self._lock:
            tally = self.tally.setdefault(planned.name, Counter())
            tally["fitted"] += int(better.sum())
            tally["plain"] += int((~better).sum())
        return np.where(better[:, None], fitted, plain)

    def _curve(self, name: str, expert: int, moments: Moments) -> feedback.Curvature:
        with self._lock:
            known = self._curves.get((name, expert))
        if known is None:
            known = moments.curvature(expert)
            with self._lock:
                self._curves[name, expert] = known
                while len(self._curves) > _CACHED_CURVES:
                    self._curves.popitem(last=False)
        return known


def fits(qtype: quant.QuantType, fit: F32Array) -> bool:
    """Whether error feedback can be used: a known layout, and blocks of columns that hold whole blocks of weights."""
    return has_grid(qtype.name) and fit.shape[1] % qtype.block_size == 0 and bool(fit.any())


def _importance(fit: F32Array) -> F32Array:
    """Diagonal of the moments (n_per_row,): mean squared input of each column."""
    return np.ascontiguousarray(np.diagonal(fit, axis1=1, axis2=2).reshape(-1), dtype=np.float32)
