"""The steps of a run in order, and what makes each longer."""

import dataclasses
from pathlib import Path

import pytest

from ggufkit.architectures.source import open_source
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.cost import effort_cost, shapes_of
from ggufkit.fitting.duration import (
    CALIBRATION,
    ENCODING,
    QUICK,
    TRYING,
    TYPES,
    WEIGHING,
    Run,
    active_weights,
    again_seconds,
    moments_madds,
    step_seconds,
)
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.keeping import AGAIN, AGAIN_TO_TRY
from ggufkit.fitting.rates import Rates, assumed
from ggufkit.fitting.walks import moments_nbytes, plan_layer_walks, walk_nbytes
from ggufkit.recipes.build import make_plan
from tests.conftest import TINY_MIXTRAL
from tests.recipes.shapes import Shape, model_of

MODEL = model_of(Shape("llama", 4, 256, 512, 8, 2, 300, n_expert=4))
COST = effort_cost(MODEL, make_plan(MODEL, "Q4_K_M"), Effort.BALANCED, threads=2, max_memory=1 << 40)
CORPUS = Corpus(Path("model.gguf"), "word " * 40_000, n_tokens=10_000)


PLAN = make_plan(MODEL, "Q4_K_M")
RUN = Run(
    model=MODEL, corpus=CORPUS, cost=COST, effort=Effort.BALANCED, plan=PLAN, fitted=True, by_layer=False, n_probe=8
)  # fmt: skip


def seconds(effort: Effort = Effort.BALANCED, *, threads: int = 2, **changes: object) -> dict[str, float]:
    return step_seconds(dataclasses.replace(RUN, effort=effort, **changes), assumed(threads))  # type: ignore[arg-type]


def test_steps_come_in_the_order_of_the_run() -> None:
    assert list(seconds(quick=True)) == [QUICK, WEIGHING, CALIBRATION, TYPES, TRYING, ENCODING]
    by_layer = seconds(quick=True, by_layer=True)  # the file that types are tried on is made when they are known
    assert list(by_layer) == [WEIGHING, CALIBRATION, TYPES, QUICK, TRYING, ENCODING]
    assert list(seconds(Effort.FAST, n_probe=None)) == [CALIBRATION, ENCODING]
    assert all(value > 0 for value in seconds(quick=True).values())


def test_each_walk_reads_the_text_again() -> None:
    one, two, three = (seconds(cost=dataclasses.replace(COST, n_walks=n))[CALIBRATION] for n in (1, 2, 3))
    assert three - two == pytest.approx(two - one) and two > one
    fast = seconds(Effort.FAST)[CALIBRATION]
    assert fast == pytest.approx(two - one)  # a reading and no moments


def test_a_text_that_is_shorter_than_asked_for_takes_less() -> None:
    short = seconds(corpus=dataclasses.replace(CORPUS, text=CORPUS.text[:20_000]))[CALIBRATION]
    kept = sum(moments_nbytes(shape) for shape in shapes_of(MODEL).values()) / assumed(2).copy  # whatever the text
    assert short - kept == pytest.approx((seconds()[CALIBRATION] - kept) / 2)  # 5,000 tokens of four letters


def test_threads_share_the_reading() -> None:
    assert seconds(Effort.FAST, threads=1)[CALIBRATION] == pytest.approx(2 * seconds(Effort.FAST)[CALIBRATION])
    assert seconds()[ENCODING] == COST.encode_seconds


def test_measured_rates_are_taken_of_what_is_nearest() -> None:
    rates = dataclasses.replace(assumed(1), encode={("Q4_K", 256): 10.0, ("Q4_K", 4096): 2.0, ("Q6_K", 256): 30.0})
    assert rates.are_measured and not assumed(1).are_measured
    assert [rates.encode_rate("Q4_K", n) for n in (512, 8192)] == [10.0, 2.0]
    assert rates.encode_rate("Q2_K", 4096) == 2.0 and rates.encode_rate("Q6_K", 4096) == 30.0


def test_encoding_goes_by_types_columns_and_experts() -> None:
    ours = [t for t in PLAN.tensors if t.qtype.is_quantized]
    assert {t.tensor.n_per_row for t in ours} == {256, 512}
    rates = Rates(1e9, 1e9, 1e9, 1e9, {1: 1e9}, {("Q4_K", 256): 1e6}, {256: 3.0, 512: 5.0})
    wanted = sum(t.tensor.n_weights / 1e6 + t.tensor.n_expert * (3 if t.tensor.n_per_row == 256 else 5) for t in ours)
    given = dataclasses.replace(RUN, n_probe=None)
    assert step_seconds(given, rates)[ENCODING] == pytest.approx(wanted)
    kept = sum(moments_nbytes(shape) for shape in shapes_of(MODEL).values())  # and read again once types are known
    assert step_seconds(RUN, rates)[ENCODING] == pytest.approx(wanted + kept / 1e9)


def test_layer_by_layer_each_is_written_on_every_way() -> None:
    slow = dataclasses.replace(assumed(2), copy=1.0)
    with open_source(TINY_MIXTRAL) as model:
        plan = make_plan(model, "Q4_K_M")
        cost = effort_cost(model, plan, Effort.BALANCED, threads=2, max_memory=1 << 40, n_tokens=10_000)
        run = dataclasses.replace(RUN, model=model, plan=plan, cost=cost, by_layer=True)
        whole = sum(part.nbytes for t in model.tensors for part in t.parts)
        outer = sum(part.nbytes for t in model.tensors if not t.name.startswith("blk.") for part in t.parts)
    assert step_seconds(run, slow)[WEIGHING] == pytest.approx(2 * (whole - outer) + outer, rel=0.01)


def test_what_has_no_room_to_wait_is_gathered_twice_and_neither_written_nor_read_back() -> None:
    walks = plan_layer_walks(shapes_of(MODEL), 1 << 40)
    rates = Rates(1e9, 1e9, 1e9, 1e9, {1: 1e9}, {("Q4_K", 256): 1e6}, {256: 3.0, 512: 5.0})
    run = dataclasses.replace(RUN, by_layer=True, n_probe=0)
    roomy, tight = step_seconds(run, rates), step_seconds(dataclasses.replace(run, again=(walks[1], walks[3])), rates)
    assert list(tight) == [WEIGHING, CALIBRATION, TYPES, AGAIN, ENCODING] and AGAIN not in roomy
    kept = walk_nbytes(walks[1] | walks[3], shapes_of(MODEL)) / 1e9
    assert roomy[CALIBRATION] - tight[CALIBRATION] == pytest.approx(kept)
    assert roomy[ENCODING] - tight[ENCODING] == pytest.approx(kept)
    layers = [t for t in MODEL.tensors if t.name.startswith("blk.")]
    stored = sum(part.nbytes for t in layers for part in t.parts)
    moments = moments_madds({n: shapes_of(MODEL)[n] for n in walks[1] | walks[3]}, MODEL)
    wanted = kept + stored / 1e9 + RUN.n_tokens * (active_weights(layers, MODEL) + moments) / 1e9  # all four are run
    assert tight[AGAIN] == pytest.approx(wanted)
    one = step_seconds(dataclasses.replace(run, again=(walks[1],)), rates)[AGAIN]
    assert one < tight[AGAIN] / 2  # two layers are run
    tried = dataclasses.replace(run, again=(walks[1],), n_probe=8)  # types are tried before they are encoded
    twice = step_seconds(tried, rates)
    assert twice[AGAIN] == twice[AGAIN_TO_TRY] == pytest.approx(one)
    assert list(twice) == [WEIGHING, CALIBRATION, TYPES, AGAIN_TO_TRY, TRYING, AGAIN, ENCODING]
    assert again_seconds(tried, rates) == pytest.approx(2 * one)


def test_as_a_whole_each_of_them_is_a_reading() -> None:
    first, second, *_ = plan_layer_walks(shapes_of(MODEL), 1 << 40)
    rates = dataclasses.replace(assumed(2), moments=1e30, copy=1e30)
    run = dataclasses.replace(RUN, n_probe=0)
    one, two = (step_seconds(dataclasses.replace(run, again=again), rates) for again in ((first,), (first, second)))
    assert one[AGAIN] == pytest.approx(one[CALIBRATION] / COST.n_walks)
    assert two[AGAIN] == pytest.approx(2 * one[AGAIN])
