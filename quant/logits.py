"""Blocks of logits to numbers a token: likelihoods, KL divergence, agreement, and sketches of a distribution.

A block is (n_tokens, n_vocab) float32, one row of logits for each position; sums are taken in float64. Adding a
constant to a row changes nothing. Memory is O(block). Knows no model, text or file; intervals are in `quant.stats`.

Sketch of a distribution p, for a comparison where p itself is gone: its top k, the mass t of the rest (the tail),
and m ids drawn from the tail in proportion to p. For another distribution q with tail mass T

    KL(p || q) = Σ_top p ln(p/q)  +  t ln(t/T)  +  t · KL(p | tail  ||  q | tail)
                 └──── the lower bound: exact, coarse ────┘     └── estimated from the draws ──┘

The last term is never negative, so the first two bound KL from below. Its estimate is the mean over the draws of
ρ - 1 - ln ρ, ρ = (q/T) / (p/t): the mean of ρ is 1, hence unbiased; it is never negative and, where p and q are
near, of order (ρ - 1)²: noise from the draws is small against the term itself.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quant.errors import NonFiniteError, ShapeError

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]
I32Array = NDArray[np.int32]
BoolArray = NDArray[np.bool_]
_N_AT_ONCE = 1 << 16  # logits; their exponentials stay in a core's cache


class TokenComparison(NamedTuple):
    """Two models at the same n positions.

    nll_base, nll_cand  -ln p(target), nats
    kld                 KL(base || cand), nats; never negative
    same_top            whether the likeliest token is the same (the lower id among equals)
    dp                  p_cand(target) - p_base(target)
    """

    nll_base: F64Array
    nll_cand: F64Array
    kld: F64Array
    same_top: BoolArray
    dp: F64Array


class TopK(NamedTuple):
    """The k likeliest tokens of n positions, likeliest first.

    log_probs  (n, k) float64, ln p
    ids        (n, k) int32
    log_tail   (n,) float64, ln of the probability of all others; -inf where there are none
    """

    log_probs: F64Array
    ids: I32Array
    log_tail: F64Array


class Sketch(NamedTuple):
    """What is kept of n distributions: the top and a sample of the tail.

    top         the k likeliest
    draw_ids    (n, m) int32, tail tokens drawn in proportion to p, with repetition; -1 where there is no tail
    draw_log_probs  (n, m) float64, their ln p
    nll         (n,) float64, of the target
    """

    top: TopK
    draw_ids: I32Array
    draw_log_probs: F64Array
    nll: F64Array


class SketchComparison(NamedTuple):
    """As TokenComparison, with `kld` estimated, and `kld_low`, below which KL(base || cand) cannot be."""

    nll_base: F64Array
    nll_cand: F64Array
    kld: F64Array
    kld_low: F64Array
    same_top: BoolArray
    dp: F64Array


def log_sum_exp(logits: F32Array) -> F64Array:
    """ln Σ exp(logits) of each row: (n,). Raises NonFiniteError with row and column.

    NumPy alone: what needs no other figure is spared Numba, its time to load and its memory.
    """
    logits = _block(logits)
    out = np.empty(len(logits))
    n_at_once = max(1, _N_AT_ONCE // logits.shape[1])
    for start in range(0, len(logits), n_at_once):
        rows = logits[start : start + n_at_once]
        peak = rows.max(axis=1)
        finite = np.isfinite(peak) & (rows.min(axis=1) > -np.inf)
        if not finite.all():
            raise _nonfinite(logits, start + int(finite.argmin()), "logits")
        powers = np.subtract(rows, peak[:, None], dtype=np.float64)
        out[start : start + n_at_once] = peak + np.log(np.exp(powers, out=powers).sum(axis=1))
    return out


def nll(logits: F32Array, targets: ArrayLike) -> F64Array:
    """-ln softmax(logits)[target] of each row: (n,) nats. targets (n,) ids below n_vocab."""
    logits = _block(logits)
    return log_sum_exp(logits) - _picked(logits, _checked_targets(targets, logits))


def compare(base: F32Array, cand: F32Array, targets: ArrayLike) -> TokenComparison:
    """Two models' logits (n, n_vocab) of the same positions, whose true next tokens are `targets` (n,).

    Raises ShapeError where the blocks differ in shape, NonFiniteError naming block, row and column.
    """
    from quant.kernels import softmax

    base, cand = _block(base), _block(cand)
    if base.shape != cand.shape:
        raise ShapeError(f"base logits have shape {base.shape}, the candidate's {cand.shape}")
    ids = _checked_targets(targets, base)
    n = len(base)
    lse_base, lse_cand, kld, same_top = np.empty(n), np.empty(n), np.empty(n), np.empty(n, dtype=np.bool_)
    bad = softmax.compare(base, cand, lse_base, lse_cand, kld, same_top)
    if bad >= 0:
        raise _nonfinite(*((cand, bad // 2, "candidate logits") if bad % 2 else (base, bad // 2, "base logits")))
    nll_base, nll_cand = lse_base - _picked(base, ids), lse_cand - _picked(cand, ids)
    return TokenComparison(nll_base, nll_cand, kld, same_top, np.exp(-nll_cand) - np.exp(-nll_base))


def top_k(logits: F32Array, k: int) -> TopK:
    """The k likeliest tokens of each row and the mass of the others. Raises ShapeError unless 1 <= k <= n_vocab."""
    logits = _block(logits)
    return _top_k(logits, k, log_sum_exp(logits))[0]


def sketch(logits: F32Array, targets: ArrayLike, k: int, uniforms: F64Array) -> Sketch:
    """Top k of each row and a draw from its tail for each column of `uniforms`.

    uniforms  (n, m) in [0, 1), ascending along each row; stratified ones, (j + u) / m, lessen the noise
    """
    from quant.kernels import softmax

    logits = _block(logits)
    ids = _checked_targets(targets, logits)
    if uniforms.ndim != 2 or len(uniforms) != len(logits):
        raise ShapeError(f"uniforms have shape {uniforms.shape}, wanted ({len(logits)}, m)")
    lse = log_sum_exp(logits)
    top, values = _top_k(logits, k, lse)
    drawn = np.full(uniforms.shape, -1, dtype=np.int32)
    softmax.draw_tail(logits, values, top.ids, lse, top.log_tail, np.ascontiguousarray(uniforms), drawn)
    draw_log_probs = np.take_along_axis(logits, np.maximum(drawn, 0), axis=1) - lse[:, None]
    draw_log_probs[drawn < 0] = -np.inf
    return Sketch(top, drawn, draw_log_probs, lse - _picked(logits, ids))


def compare_sketch(base: Sketch, cand: F32Array, targets: ArrayLike) -> SketchComparison:
    """A sketch of the base model against the candidate's logits (n, n_vocab). See the module for what is estimated."""
    cand = _block(cand)
    ids = _checked_targets(targets, cand)
    if len(base.nll) != len(cand):
        raise ShapeError(f"the sketch has {len(base.nll)} positions, the candidate {len(cand)}")
    lse = log_sum_exp(cand)
    low, log_tail = _coarse_kld(base.top, cand, lse)
    kld = low + _tail_kld(base, cand, lse, log_tail)
    nll_cand = lse - _picked(cand, ids)
    same_top = cand.argmax(axis=1) == base.top.ids[:, 0]
    dp = np.exp(-nll_cand) - np.exp(-base.nll)
    return SketchComparison(base.nll, nll_cand, kld, low, same_top, dp)


def _coarse_kld(top: TopK, cand: F32Array, lse: F64Array) -> tuple[F64Array, F64Array]:
    """Σ_top p ln(p/q) + t ln(t/T): (n,), and ln T (n,)."""
    log_q = np.take_along_axis(cand, top.ids, axis=1) - lse[:, None]  # (n, k)
    log_tail = _log_outside(cand, top.ids, lse)
    t = np.exp(top.log_tail)
    tail = np.where(t > 0, t * (np.where(t > 0, top.log_tail, 0.0) - np.where(t > 0, log_tail, 0.0)), 0.0)
    return (np.exp(top.log_probs) * (top.log_probs - log_q)).sum(axis=1) + tail, log_tail


def _log_outside(cand: F32Array, ids: I32Array, lse: F64Array) -> F64Array:
    """ln of the candidate's probability outside `ids` (n, k): (n,), summed without the ones that are left out."""
    rest = cand.copy()  # (n, n_vocab)
    np.put_along_axis(rest, ids, np.float32(-1e30), axis=1)
    if rest.shape[1] == ids.shape[1]:
        return np.full(len(rest), -np.inf)
    return log_sum_exp(rest) - lse


def _tail_kld(base: Sketch, cand: F32Array, lse: F64Array, log_tail: F64Array) -> F64Array:
    """t · mean over the draws of ρ - 1 - ln ρ: (n,), 0 where nothing was drawn."""
    if not base.draw_ids.shape[1]:
        return np.zeros(len(lse))
    drawn = base.draw_ids >= 0
    log_q = np.take_along_axis(cand, np.maximum(base.draw_ids, 0), axis=1) - lse[:, None] - log_tail[:, None]
    log_p = base.draw_log_probs - base.top.log_tail[:, None]
    log_rho = np.subtract(log_q, log_p, out=np.zeros(drawn.shape), where=drawn)  # (n, m)
    terms = np.expm1(log_rho) - log_rho
    kld: F64Array = np.exp(base.top.log_tail) * terms.mean(axis=1)
    return kld


def _top_k(logits: F32Array, k: int, lse: F64Array) -> tuple[TopK, F32Array]:
    from quant.kernels import softmax

    n, n_vocab = logits.shape
    if not 1 <= k <= n_vocab:
        raise ShapeError(f"top-k takes 1 to {n_vocab} (the vocabulary), got {k}")
    values, ids, log_tail = np.empty((n, k), dtype=np.float32), np.empty((n, k), dtype=np.int32), np.empty(n)
    softmax.select_top(logits, values, ids)
    softmax.tail_sum(logits, values, ids, lse, log_tail)
    return TopK(values - lse[:, None], ids, log_tail), values


def _block(logits: F32Array) -> F32Array:
    if logits.ndim != 2 or not logits.shape[1]:
        raise ShapeError(f"logits are (n_tokens, n_vocab), got shape {logits.shape}")
    return np.ascontiguousarray(logits, dtype=np.float32)


def _checked_targets(targets: ArrayLike, logits: F32Array) -> NDArray[np.int64]:
    ids = np.asarray(targets, dtype=np.int64)
    if ids.shape != logits.shape[:1]:
        raise ShapeError(f"{logits.shape[0]} rows of logits need as many targets, got shape {ids.shape}")
    if ids.size and (ids.min() < 0 or ids.max() >= logits.shape[1]):
        raise ShapeError(f"targets go from {ids.min()} to {ids.max()}, the vocabulary has {logits.shape[1]} tokens")
    return ids


def _picked(logits: F32Array, ids: NDArray[np.int64]) -> F64Array:
    picked: F64Array = logits[np.arange(len(ids)), ids].astype(np.float64)
    return picked


def _nonfinite(logits: F32Array, row: int, what: str) -> NonFiniteError:
    column = int(np.flatnonzero(~np.isfinite(logits[row]))[0])
    return NonFiniteError(f"{what}: row {row} token {column} is {logits[row, column]}")
