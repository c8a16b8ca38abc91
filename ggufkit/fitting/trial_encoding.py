"""Rows encoded to find out what a type costs, without a file.

Knows rows and what is known of their inputs. Does not know which rows, or what is done with costs.
"""

from collections.abc import Callable
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.fitting.encoders import fits
from ggufkit.fitting.moments import ExpertEvidence, PlainEvidence
from quant import coupling, feedback
from quant.coupling import Coupling

F32Array = NDArray[np.float32]
Inputs = ExpertEvidence | PlainEvidence | None  # what is known of an expert's; None where nothing was seen

REFINED = 4  # one of so many rows
TABLE_REFINE = 2  # rounds


def type_cost(w: F32Array, type_name: str, known: Inputs, cost: Callable[[slice, F32Array], float]) -> float:
    """What the errors of rows `w` in that type cost, by `cost` of a slice of them and its errors.

    Refinement takes most of the time of encoding and leaves much the same part of each row's error: that of some rows.
    """
    error = _error(w, type_name, known, 0)
    whole = cost(slice(None), error)
    if not is_fitted(known, type_name):
        return whole
    some = slice(None, None, REFINED)
    return whole * cost(some, _error(w[some], type_name, known, TABLE_REFINE)) / max(cost(some, error[some]), 1e-30)


def _error(w: F32Array, type_name: str, known: Inputs, n_refine: int) -> F32Array:
    return quant.dequantize(encoded(w, type_name, known, n_refine), quant.quant_type(type_name)) - w


def encoded(
    w: F32Array, type_name: str, known: Inputs, n_refine: int, rows: Coupling | None = None
) -> NDArray[np.uint8]:
    """Rows `w` as a file would hold them in that type.

    rows  how they depend on each other, of all rows of an expert; None takes each by itself
    """
    qtype = quant.quant_type(type_name)
    if is_fitted(known, type_name):
        if rows is None:
            return feedback.encode(w, qtype, known.curve, n_refine=n_refine)
        return coupling.encode(w, qtype, known.curve, rows, first=0, n_refine=n_refine)
    return quant.quantize(w, qtype, importance=None if known is None else known.importance)


def is_fitted(known: Inputs, type_name: str) -> TypeGuard[ExpertEvidence]:
    return isinstance(known, ExpertEvidence) and fits(quant.quant_type(type_name), known.curve.width)
