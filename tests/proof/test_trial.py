"""Limits put to the test chunk by chunk, on made-up numbers: what is said, in which unit, what was clipped."""

import numpy as np
import pytest

from ggufkit.proof.limits import GateConfig
from ggufkit.proof.scores import ChunkScores
from ggufkit.proof.trial import Check, Trial
from quant.confseq import Outcome
from quant.logits import SketchComparison

N_TOKEN = 100


def chunk(number: int, *, kld: float, far: int = 0, same: int = N_TOKEN) -> ChunkScores:
    """A chunk whose tokens diverge by `kld`, `far` of them by 5 nats, with `same` likeliest tokens alike."""
    values = np.full(N_TOKEN, kld)
    values[:far] = 5.0
    zeros = np.zeros(N_TOKEN)
    return ChunkScores(number, SketchComparison(zeros, zeros, values, values, np.arange(N_TOKEN) < same, zeros))


def judged(chunks: list[ChunkScores], **limits: float) -> Check:
    trial = Trial(GateConfig(limits=limits), n_plan=10)
    for one in chunks:
        trial.add(one)
    (check,) = trial.checks()
    return check


def test_shares_are_told_in_percent_as_in_the_tables() -> None:
    check = judged([chunk(i, kld=0.001, far=5) for i in range(30)], kld_p99=0.6)
    assert (check.outcome, check.title) == (Outcome.FAIL, "tokens with KL > 0.6")
    assert check.message.startswith("5 %, and at least ")
    assert "% for sure; wanted at most 1 %" in check.message
    check = judged([chunk(i, kld=0.001, same=99) for i in range(30)], same_top=0.9)
    assert check.outcome is Outcome.PASS
    assert check.message.startswith("99 %, and at least 9")
    assert check.message.endswith("% for sure; wanted at least 90 %")


def test_a_pass_says_how_many_chunks_were_clipped() -> None:
    chunks = [chunk(i, kld=0.001) for i in range(60)]
    assert "counts as" not in judged(chunks, kld_mean=0.05).message
    chunks[3], chunks[9] = chunk(3, kld=0.9), chunk(9, kld=0.7)
    trial = Trial(GateConfig(limits={"kld_mean": 0.05}), n_plan=10)
    for one in chunks:
        trial.add(one)
    (check,) = trial.checks()
    assert (check.outcome, check.n_clipped) == (Outcome.PASS, 2)
    assert check.message.endswith("; 2 chunks lie beyond 4 times what is allowed and count as that much")


def test_nothing_passes_whose_own_mean_is_beyond_the_limit() -> None:
    """Every tenth chunk is far off: clipped to 4 times the limit they would pass."""
    chunks = [chunk(i, kld=1.0 if i % 10 == 2 else 0.001) for i in range(90)]
    check = judged(chunks, kld_mean=0.05)
    assert check.outcome is not Outcome.PASS
    assert check.value == pytest.approx(0.1009)
    assert check.low < 0.05 < check.value <= check.high
    assert check.n_clipped == 9


@pytest.mark.parametrize("n", [1, 3])
def test_doubt_gives_both_ends(n: int) -> None:
    check = judged([chunk(i, kld=0.05) for i in range(n)], kld_mean=0.05)
    assert check.outcome is Outcome.INCONCLUSIVE
    assert check.message.startswith("0.05, somewhere from ")
    assert check.message.endswith("cannot tell yet whether at most 0.05")
