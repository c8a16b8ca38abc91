"""Encoders that calibrate: each expert is encoded for its own inputs.

    fast      importance only: one walk through the text for sums of squares
    balanced  error feedback, then 2 rounds of refinement
    best      error feedback, then 16 rounds of refinement

Where evidence is thin, damping takes error feedback back to a search with importance. Knows evidence and efforts. Does
not know how types were chosen or files are written.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Container, Mapping
from enum import StrEnum

import gguf
import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.encoding.encoder import BYTES_PER_WEIGHT, ExpertEncoder, PlainRows, Tally
from ggufkit.encoding.slabs import ONE_BY_ONE
from ggufkit.fitting.case import Case
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.moments import ExpertEvidence, ExpertMeans
from ggufkit.formats.model import KV
from ggufkit.recipes.plan import PlannedTensor
from quant import coupling, feedback
from quant.coupling import Coupling
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
_FEEDBACK_BYTES = 40  # a weight, on top of a plain slab's: what is left, levels, scales, offsets, errors, changes


def n_products(effort: Effort) -> float:
    """Products of a row with the moments that fitting takes: half of one to round it, one to solve for its halves, one
    for each time that its columns are gone through."""
    return 1.5 + REFINE_ROUNDS[effort]


def bytes_per_weight(effort: Effort) -> int:
    """Bytes that each weight of a slab in work takes."""
    return BYTES_PER_WEIGHT + (0 if effort is Effort.FAST else _FEEDBACK_BYTES)


class Calibrated:
    """What the encoders share: the evidence, and what the file says about it.

    tally        rows stored fitted and plain, by tensor: what the report says of the fit
    held_nbytes  bytes that it keeps in memory while slabs are encoded
    """

    name = quant.Encoder.GGUFKIT

    def __init__(self, evidence: Evidence, effort: Effort, held_nbytes: int = 0) -> None:
        self.evidence, self.effort, self.held_nbytes = evidence, effort, held_nbytes
        self.tally: dict[str, Counter[str]] = {}
        self._lock = threading.Lock()

    def count(self, planned: PlannedTensor, tally: Tally) -> None:
        """Rows of a tensor that were stored fitted, and plain. Any thread."""
        with self._lock:
            self.tally.setdefault(planned.name, Counter()).update(tally)

    @property
    def covers(self) -> Container[str]:
        return self.evidence.shapes

    @property
    def rows_together(self) -> Mapping[str, int]:
        return ONE_BY_ONE if self.effort is Effort.FAST else self.evidence.groups

    @property
    def notes(self) -> tuple[str, ...]:
        return self.evidence.source.notes

    @property
    def bytes_per_weight(self) -> int:
        return bytes_per_weight(self.effort)

    @property
    def identity(self) -> str:
        return f"fit {self.effort} {self.name} {self.evidence.source.identity}"

    @property
    def metadata(self) -> tuple[KV, ...]:
        kind, corpus = gguf.GGUFValueType, self.evidence.source.corpus
        rows = [
            KV("ggufkit.fit.effort", kind.STRING, str(self.effort)),
            KV("ggufkit.fit.text_sha256", kind.STRING, hashlib.sha256(corpus.text.encode()).hexdigest()),
            KV("ggufkit.fit.n_ctx", kind.UINT32, corpus.n_ctx),
        ]
        if corpus.n_tokens is not None:
            rows.append(KV("ggufkit.fit.n_tokens", kind.UINT32, corpus.n_tokens))
        if corpus.type_name:
            rows.append(KV("ggufkit.fit.quick_type", kind.STRING, corpus.type_name))
        routed = self.evidence.routed_layers
        if routed:
            counts = {row.layer: row.counts for row in self.evidence.coverage.layers}
            unknown = np.zeros(1, dtype=np.int64)  # until the walk that counts that layer's experts is done
            for which, f in (("least", np.min), ("median", np.median)):
                values = [int(f(counts.get(layer, unknown))) for layer in routed]
                rows.append(KV(f"ggufkit.fit.expert_tokens.{which}", kind.ARRAY, values, kind.UINT32))
        return tuple(rows)


class ImportanceEncoder(Calibrated):
    """Row encoder of the effort fast: what `calibrate` and then --imatrix would give."""

    def __init__(self, evidence: Evidence, held_nbytes: int = 0, name: quant.Encoder = quant.Encoder.GGUFKIT) -> None:
        super().__init__(evidence, Effort.FAST, held_nbytes)
        self.name = name
        self._means: dict[str, F32Array] = {}

    def __call__(self, planned: PlannedTensor, expert: int, w: F32Array, first: int = 0) -> U8Array:
        return self.of_expert(planned, expert)(w, first)[0]

    def of_expert(self, planned: PlannedTensor, expert: int) -> PlainRows:
        known = self._mean(planned.name) if planned.qtype.is_quantized else None
        return PlainRows(planned.qtype, None if known is None else known[expert], self.name)

    def _mean(self, name: str) -> F32Array | None:
        """Importance of each expert (n_expert, n_per_row); made once a tensor."""
        with self._lock:
            sums = self.evidence.sums.get(name)
            if sums is not None and name not in self._means:
                self._means[name] = importance(sums)
            return self._means.get(name)


class FittedEncoder(Calibrated):
    """Row encoder with error feedback, called from several threads."""

    def __call__(self, planned: PlannedTensor, expert: int, w: F32Array, first: int = 0) -> U8Array:
        qtype = planned.qtype
        known = self.evidence.of_expert(planned.name, expert, whole=True) if qtype.is_quantized else None
        if known is None or not fits(qtype, known.curve.width):
            return _plain(qtype, known)(w)[0]
        rows = self.evidence.coupling(planned.name)
        blocks, tally = encode_fitted(w, qtype, known, REFINE_ROUNDS[self.effort], rows=rows, first=first)
        self.count(planned, tally)
        return blocks

    def of_expert(self, planned: PlannedTensor, expert: int) -> ExpertEncoder:
        qtype = planned.qtype
        moments = self.evidence.of(planned.name) if qtype.is_quantized else None
        if moments is None:
            return _plain(qtype, None)
        means = moments.means_of(expert, whole=True)
        if not fits(qtype, means.width):
            return _plain(qtype, means)
        return FittedRows(qtype, REFINE_ROUNDS[self.effort], means, self.evidence.coupling(planned.name))


class FittedRows:
    """The `ExpertEncoder` with error feedback: its evidence is made where its first rows are encoded."""

    def __init__(self, qtype: quant.QuantType, n_refine: int, means: ExpertMeans, rows: Coupling | None = None) -> None:
        self._qtype, self._n_refine, self._means, self._rows = qtype, n_refine, means, rows
        self._case = Case(means.evidence)

    @property
    def nbytes(self) -> int:
        return self._means.nbytes + (0 if self._rows is None else self._rows.nbytes)

    def __reduce__(
        self,
    ) -> tuple[type["FittedRows"], tuple[quant.QuantType, int, ExpertMeans, Coupling | None]]:
        return FittedRows, (self._qtype, self._n_refine, self._means, self._rows)

    def __call__(self, w: F32Array, first: int = 0) -> tuple[U8Array, Tally]:
        return encode_fitted(w, self._qtype, self._case.made(), self._n_refine, rows=self._rows, first=first)


def encode_fitted(
    w: F32Array, qtype: quant.QuantType, known: ExpertEvidence, n_refine: int, *, rows: Coupling | None = None,
    first: int = 0,
) -> tuple[U8Array, Tally]:  # fmt: skip
    """Encoded rows, and how many were fitted, or searched with importance because they are not finite.

    rows   how they depend on each other; None where each stands for itself
    first  number of the first of them in its matrix
    """
    finite = np.asarray(np.isfinite(w).all(axis=1))
    numbers = w if finite.all() else np.where(finite[:, None], w, np.float32(0))
    if rows is None:
        fitted = feedback.encode(numbers, qtype, known.curve, n_refine=n_refine)
    else:
        fitted = coupling.encode(numbers, qtype, known.curve, rows, first=first, n_refine=n_refine)
    if finite.all():
        return fitted, {"fitted": len(w), "plain": 0}
    tally = {"fitted": int(finite.sum()), "plain": int((~finite).sum())}
    return np.where(finite[:, None], fitted, _plain(qtype, known)(w)[0]), tally


def _plain(qtype: quant.QuantType, known: ExpertEvidence | ExpertMeans | None) -> PlainRows:
    return PlainRows(qtype, None if known is None else known.importance, quant.Encoder.GGUFKIT)


def fits(qtype: quant.QuantType, width: int) -> bool:
    """Whether error feedback can be used: a known layout, and blocks of columns that hold whole blocks of weights."""
    return has_grid(qtype.name) and width % qtype.block_size == 0


def encoder_for(
    effort: Effort, evidence: Evidence, *, held_nbytes: int = 0, name: quant.Encoder = quant.Encoder.GGUFKIT
) -> ImportanceEncoder | FittedEncoder:
    """The row encoder of an effort. `name` is whose bytes `fast` makes; error feedback is ggufkit's own."""
    if effort is Effort.FAST:
        return ImportanceEncoder(evidence, held_nbytes, name)
    return FittedEncoder(evidence, effort, held_nbytes)
