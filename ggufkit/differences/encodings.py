"""What types make of rows: the error that a type alone gives a tensor, and the type that a file went through before.

Encodes a few rows of a tensor and compares. Does not say what is wrong: `ggufkit.differences.diagnosis` does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.differences.weights import Measured
from ggufkit.formats.model import ModelTensor
from quant import QuantError

F32Array = NDArray[np.float32]

# the most that rounding to a float type adds to weights of any size, relative
_FLOAT_ERROR = {"F32": 1e-6, "F16": 1e-3, "BF16": 4e-3}


def expected_error(tensor: ModelTensor, measured: Measured) -> tuple[float, float]:
    """Error that the candidate's type gives a sample of rows without importance, and the candidate's error there."""
    dtype = measured.candidate.dtype
    if dtype in _FLOAT_ERROR:
        return _FLOAT_ERROR[dtype] if measured.base.dtype in _FLOAT_ERROR else float("nan"), measured.whole.error
    sample = sample_rows(tensor)
    encoded = _encoded(sample.rows, dtype)
    if encoded is None:
        return float("nan"), measured.whole.error
    picked = [measured.sums[e] for e in sample.experts]
    base2 = sum(float(one.base2[sample.start : sample.stop].sum()) for one in picked)
    diff2 = sum(float(one.diff2[sample.start : sample.stop].sum()) for one in picked)
    if not base2:
        return float("nan"), measured.whole.error
    return float(np.linalg.norm(encoded - sample.rows)) / base2**0.5, (diff2 / base2) ** 0.5


class Sample(NamedTuple):
    """The same few rows of some experts, one below the other."""

    experts: tuple[int, ...]
    start: int
    stop: int
    rows: F32Array


def sample_rows(tensor: ModelTensor, *, n_rows: int = 16, n_expert: int = 4) -> Sample:
    """Rows from the middle of up to `n_expert` experts."""
    experts = tuple(sorted({int(e) for e in np.linspace(0, tensor.n_expert - 1, min(n_expert, tensor.n_expert))}))
    start = max(0, (tensor.n_rows - n_rows) // 2)
    stop = min(tensor.n_rows, start + n_rows)
    return Sample(experts, start, stop, np.vstack([tensor.rows(e, start, stop) for e in experts]))


def requantized_from(pairs: Sequence[tuple[ModelTensor, ModelTensor]]) -> str | None:
    """The type that (original, candidate) tensors were stored in on the way, if a sample says so clearly.

    What the original becomes through that type is then much nearer to the candidate than what it becomes at once.
    """
    coarser = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
    best, best_ratio = None, 0.5
    samples = [(sample_rows(base).rows, sample_rows(cand).rows, cand.dtype) for base, cand in pairs]
    for via in coarser:
        ratios = [_nearer(base, cand, dtype, via) for base, cand, dtype in samples if dtype != via]
        ratio = float(np.median(ratios)) if ratios else 1.0
        if ratio < best_ratio:
            best, best_ratio = via, ratio
    return best


def _nearer(base: F32Array, cand: F32Array, dtype: str, via: str) -> float:
    """Distance of the candidate from base → via → dtype, in distances from base → dtype; of either encoder's making."""
    through = [rows for encoder in quant.Encoder if (rows := _encoded(base, via, encoder)) is not None]
    if not through or not np.isfinite(cand).all():
        return 1.0
    direct = _distance(cand, base, dtype)
    return min(_distance(cand, rows, dtype) for rows in through) / direct if direct else 1.0


def _distance(cand: F32Array, rows: F32Array, dtype: str) -> float:
    """From the candidate to what the nearer of the encoders makes of `rows`."""
    made = [_encoded(rows, dtype, encoder) for encoder in quant.Encoder]
    return min((float(np.linalg.norm(cand - one)) for one in made if one is not None), default=0.0)


def _encoded(rows: F32Array, dtype: str, encoder: quant.Encoder = quant.Encoder.GGML) -> F32Array | None:
    """`rows` as that type stores them; None where it cannot."""
    qtype = quant.quant_type(dtype)
    try:
        return quant.dequantize(quant.quantize(rows, qtype, encoder=encoder), qtype)
    except QuantError:
        return None
