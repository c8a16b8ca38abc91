"""The steps of a run in order, and what makes each longer."""

import dataclasses
from pathlib import Path

import pytest

from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.cost import effort_cost
from ggufkit.fitting.duration import CALIBRATION, ENCODING, QUICK, TYPES, WEIGHING, step_seconds
from ggufkit.fitting.encoders import Effort
from ggufkit.recipes.build import make_plan
from tests.recipes.shapes import Shape, model_of

MODEL = model_of(Shape("llama", 4, 256, 512, 8, 2, 300, n_expert=4))
COST = effort_cost(MODEL, make_plan(MODEL, "Q4_K_M"), Effort.BALANCED, threads=2, max_memory=1 << 40)
CORPUS = Corpus(Path("model.gguf"), "word " * 40_000, n_tokens=10_000)


def seconds(effort: Effort = Effort.BALANCED, **changes: object) -> dict[str, float]:
    given = {"corpus": CORPUS, "cost": COST, "threads": 2, "n_probe": 8, "quick": False} | changes
    return step_seconds(MODEL, given.pop("corpus"), given.pop("cost"), effort, **given)  # type: ignore[arg-type]


def test_steps_come_in_the_order_of_the_run() -> None:
    assert list(seconds(quick=True)) == [QUICK, WEIGHING, CALIBRATION, TYPES, ENCODING]
    assert list(seconds(Effort.FAST, n_probe=None)) == [CALIBRATION, ENCODING]
    assert all(value > 0 for value in seconds(quick=True).values())


def test_each_walk_reads_the_text_again() -> None:
    one, two, three = (seconds(cost=dataclasses.replace(COST, n_walks=n))[CALIBRATION] for n in (1, 2, 3))
    assert three - two == pytest.approx(two - one) and two > one
    fast = seconds(Effort.FAST)[CALIBRATION]
    assert fast == pytest.approx(two - one)  # a reading and no moments


def test_a_text_that_is_shorter_than_asked_for_takes_less() -> None:
    short = seconds(corpus=dataclasses.replace(CORPUS, text=CORPUS.text[:20_000]))[CALIBRATION]
    assert short == pytest.approx(seconds()[CALIBRATION] / 2)  # 5,000 tokens of four letters instead of 10,000


def test_threads_share_the_reading() -> None:
    assert seconds(Effort.FAST, threads=1)[CALIBRATION] == pytest.approx(2 * seconds(Effort.FAST)[CALIBRATION])
    assert seconds()[ENCODING] == COST.encode_seconds
