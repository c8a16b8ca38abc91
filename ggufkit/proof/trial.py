"""Limits put to the test while chunks come in: each check passes, fails or stays open, and says so at any look.

A check passes when its bound says that the metric is within the limit, fails when it says that it is beyond; each
bound holds at every look (see `quant.confseq`). All checks must pass, so a wrong pass of the whole is at most as
likely as of one: alpha each. One failure fails all, so failing is made as much less likely as there are checks.
Does not know models or texts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import NamedTuple

import numpy as np

from ggufkit.proof.limits import METRICS, GateConfig
from ggufkit.proof.scores import ChunkScores
from quant import confseq
from quant.confseq import Bounds, Outcome
from quant.logits import SketchComparison
from quant.stats import known

# Clip chunks at so many times the limit. A chunk's mean rarely is so far from a mean within it; for shares of rare
# tokens it is more often. The lower, the fewer chunks are needed to pass.
_CLIP_MEANS = 4.0
_CLIP_RARE = 8.0


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a verdict.

    group           structure, size or quality
    value           so far; for limits on a share of tokens: the share
    low, high       where the true value lies; each side wrong at any look, ever, with probability at most its alpha
    limit           what `value` is held against
    n_chunk         chunks read when it was decided, or in the end
    n_clipped       chunks so far beyond the limit that only 4 or 8 times the limit was counted

    None: there is no value, no bound, no limit
    """

    name: str
    title: str
    group: str
    outcome: Outcome
    message: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    at_least: bool = False
    n_chunk: int = 0
    n_clipped: int = 0


class Meter(NamedTuple):
    """How a metric becomes a mean over chunks, held against a limit from above.

    of        value of a chunk, given its tokens and the metric's limit; never negative where clip is set
    limit_of  the limit of the mean of these values
    shown     what a person sees of that mean
    clip      chunks count at most so many times the limit; None for values that may be negative
    low_of    a value of the chunk that it cannot be below, where `of` is an estimate
    percent   whether people read it in percent
    """

    of: Callable[[SketchComparison, float], float]
    limit_of: Callable[[float], float] = lambda limit: limit
    shown: Callable[[float], float] = lambda value: value
    clip: float | None = _CLIP_MEANS
    low_of: Callable[[SketchComparison, float], float] | None = None
    title: str = ""
    percent: bool = False


def _share(level: float) -> Meter:
    """Share of tokens that diverge by more than the limit, against the share that may."""
    return Meter(
        of=lambda tokens, limit: float((tokens.kld > limit).mean()),
        low_of=lambda tokens, limit: float((tokens.kld_low > limit).mean()),
        limit_of=lambda _: 1 - level,
        clip=_CLIP_RARE,
        title="tokens with KL > {:g}",
        percent=True,
    )


METERS = {
    "ln_ppl_ratio": Meter(lambda tokens, _: float((tokens.nll_cand - tokens.nll_base).mean()), clip=None),
    "kld_mean": Meter(lambda tokens, _: max(0.0, float(tokens.kld.mean()))),
    "kld_p90": _share(0.9),
    "kld_p95": _share(0.95),
    "kld_p99": _share(0.99),
    "kld_p999": _share(0.999),
    # disagreement is what is small and never negative
    "same_top": Meter(
        lambda tokens, _: 1 - float(tokens.same_top.mean()),
        limit_of=lambda limit: 1 - limit,
        shown=lambda mean: 1 - mean,
        percent=True,
    ),
    "dp_rms": Meter(
        lambda tokens, _: float(np.square(tokens.dp).mean()),
        limit_of=lambda limit: limit**2,
        shown=lambda mean: sqrt(max(0.0, mean)),
        clip=_CLIP_RARE,
        percent=True,
    ),
}


class Trial:
    """All quality checks of a gate: `add` chunks while it `is_open`, then read `checks`."""

    def __init__(self, config: GateConfig, n_plan: int) -> None:
        self._limits = {name: limit for name, limit in config.limits.items() if name in METERS}
        self._alphas = {"alpha_low": config.alpha / max(1, len(self._limits)), "alpha_high": config.alpha}
        self._n_plan = max(2, n_plan)
        self._values: dict[str, list[float]] = {name: [] for name in self._limits}
        self._lows: dict[str, list[float]] = {name: [] for name in self._limits if METERS[name].low_of}
        self._decided: dict[str, Check] = {}

    def add(self, chunk: ChunkScores) -> None:
        """Take a chunk in and judge what is still open."""
        for name, limit in self._limits.items():
            meter = METERS[name]
            self._values[name].append(meter.of(chunk.tokens, limit))
            if meter.low_of:
                self._lows[name].append(meter.low_of(chunk.tokens, limit))
        for name in self._limits.keys() - self._decided.keys():
            if self._is_decided(name):
                self._decided[name] = self._judge(name)

    @property
    def n_chunk(self) -> int:
        """Chunks taken in so far."""
        return max((len(values) for values in self._values.values()), default=0)

    @property
    def is_open(self) -> bool:
        """Whether more chunks could change anything: false once one check failed or all have passed."""
        has_failed = any(check.outcome is Outcome.FAIL for check in self._decided.values())
        return not has_failed and len(self._decided) < len(self._limits)

    def checks(self) -> tuple[Check, ...]:
        """Decided ones as they were when they were decided, open ones as they stand."""
        return tuple(self._decided.get(name) or self._judge(name) for name in self._limits)

    def _is_decided(self, name: str) -> bool:
        """Whether `_judge` would say pass or fail, in a fraction of its time."""
        meter, values = METERS[name], np.array(self._values[name])
        limit = meter.limit_of(self._limits[name])
        if meter.clip is None:
            return bool(confseq.unbounded_looks(values, limit, **self._alphas, n_plan=self._n_plan)[-1])
        upper, lows = meter.clip * limit, np.array(self._lows.get(name, self._values[name]))
        passed = values.mean() <= limit and confseq.bounded_looks(values, upper, limit, **self._alphas)[-1] > 0
        return bool(passed or confseq.bounded_looks(lows, upper, limit, **self._alphas)[-1] < 0)

    def _judge(self, name: str) -> Check:
        meter, metric, limit = METERS[name], METRICS[name], self._limits[name]
        mean_limit = meter.limit_of(limit)
        bounds = self._bounds(name, mean_limit)
        outcome = confseq.decide(bounds, mean_limit)
        value, *ends, shown_limit = (meter.shown(x) for x in (*bounds, mean_limit))
        low, high = sorted(ends)
        values = self._values[name]
        check = Check(
            name=name,
            title=meter.title.format(limit) or metric.title,
            group="quality",
            outcome=outcome,
            message="",
            value=value,
            low=known(low),
            high=known(high),
            limit=shown_limit,
            at_least=metric.at_least,
            n_chunk=len(values),
            n_clipped=sum(v > meter.clip * mean_limit for v in values) if meter.clip else 0,
        )
        return replace(check, message=_sentence(check, meter))

    def _bounds(self, name: str, limit: float) -> Bounds:
        meter, values = METERS[name], np.array(self._values[name])
        if meter.clip is None:
            return confseq.unbounded(values, **self._alphas, n_plan=self._n_plan)
        bounds = confseq.bounded(values, meter.clip * limit, **self._alphas)
        lows, seen = np.array(self._lows.get(name, values)), float(values.mean())
        low = bounds.low if (lows == values).all() else confseq.bounded(lows, meter.clip * limit, **self._alphas).low
        # what was clipped was seen all the same: nothing passes whose own mean is beyond the limit
        return Bounds(seen, low, max(bounds.high, seen))


def _sentence(check: Check, meter: Meter) -> str:
    def number(x: float | None) -> str:
        if x is None:
            return "not known"
        return f"{100 * x:.4g} %" if meter.percent else f"{x:.4g}"

    value, wanted = number(check.value), f"{'at least' if check.at_least else 'at most'} {number(check.limit)}"
    if check.outcome is not Outcome.INCONCLUSIVE:
        is_above = (check.outcome is Outcome.PASS) == check.at_least
        bound = f"at least {number(check.low)}" if is_above else f"at most {number(check.high)}"
        said = f"{value}, and {bound} for sure; wanted {wanted}"
    elif check.low is not None and check.high is not None:
        said = f"{value}, somewhere from {number(check.low)} to {number(check.high)}: cannot tell yet whether {wanted}"
    else:
        said = f"{value} after too few chunks to tell whether {wanted}"
    return said + (f"; {_clipped(check.n_clipped, meter)}" if check.n_clipped else "")


def _clipped(n: int, meter: Meter) -> str:
    lie, count = ("1 chunk lies", "counts") if n == 1 else (f"{n} chunks lie", "count")
    return f"{lie} beyond {meter.clip:g} times what is allowed and {count} as that much"
