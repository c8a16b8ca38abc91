"""What an effort costs: walks and memory against the model's shapes, and a refusal that names what would do."""

import re

import pytest

from ggufkit.errors import UsageError
from ggufkit.fitting import cost
from ggufkit.fitting.cost import effort_cost, layer_tape_nbytes, shapes_of, tape_nbytes, taped_chunks, taped_tokens
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.token_weights import MAX_CHUNKS
from ggufkit.fitting.walks import moments_nbytes
from ggufkit.recipes.build import make_plan
from tests.recipes.shapes import SHAPES, Shape, model_of

SMALL = model_of(Shape("llama", 4, 256, 512, 8, 2, 300, n_expert=4))
PLAN = make_plan(SMALL, "Q4_K_M")
MIXTRAL = model_of(SHAPES["mixtral-8x7b"])
PLENTY = 1 << 40


def of(effort: Effort, max_memory: int = PLENTY, **changes: int) -> cost.EffortCost:
    return effort_cost(SMALL, PLAN, effort, **({"threads": 2, "max_memory": max_memory} | changes))  # type: ignore[arg-type]


def test_shapes_are_those_of_what_may_be_quantized() -> None:
    shapes = shapes_of(SMALL)
    assert shapes["blk.0.ffn_down_exps.weight"] == (4, 512) and shapes["output.weight"] == (1, 256)
    assert not [name for name in shapes if "norm" in name or "gate_inp" in name]


def test_with_plenty_all_moments_are_held_in_one_walk() -> None:
    found = of(Effort.BALANCED)
    assert (found.n_walks, found.moments_nbytes) == (1, sum(map(moments_nbytes, shapes_of(SMALL).values())))
    assert of(Effort.FAST).n_walks == 1 and of(Effort.FAST).peak_nbytes < found.peak_nbytes


def test_two_experts_of_a_layer_are_in_hand_and_one_wide_dense_tensor_beside_a_narrow_one() -> None:
    wide, narrow, square = (1, 8960), (1, 1536), 3 * 4
    dense = {"blk.0.attn_q.weight": narrow, "blk.0.ffn_down.weight": wide, "blk.1.ffn_down.weight": wide}
    matrices = square * (8960**2 + 1536**2)
    assert cost._cases_nbytes(dense) == matrices + moments_nbytes(wide)
    stack = {"blk.0.ffn_down_exps.weight": (8, 4096), "blk.0.attn_q.weight": (1, 2048)}
    assert cost._cases_nbytes(stack) == 2 * square * 4096**2 + moments_nbytes((1, 4096))


def test_less_memory_takes_more_walks_within_it() -> None:
    plan = make_plan(MIXTRAL, "Q4_K_M")
    cap = 32 << 30  # where 178 GiB hold all moments
    found = effort_cost(MIXTRAL, plan, Effort.BALANCED, threads=2, max_memory=cap)
    assert found.n_walks > 1 and found.moments_nbytes <= found.budget_nbytes and found.peak_nbytes <= cap


@pytest.mark.parametrize(("effort", "instead"), [(Effort.FAST, "fewer --threads"), (Effort.BEST, "--effort fast")])
def test_the_least_that_is_named_is_enough(effort: Effort, instead: str) -> None:
    with pytest.raises(UsageError, match=instead) as refused:
        of(effort, 1 << 20)
    least = int(re.search(r"needs (\d+)MiB", str(refused.value))[1]) << 20  # type: ignore[index]
    assert of(effort, least).peak_nbytes <= least
    with pytest.raises(UsageError):
        of(effort, least - (1 << 20))


def test_by_layer_the_stream_lies_twice_on_the_disk_beside_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_layer_nbytes", lambda _: 12345)
    found = of(Effort.FAST, n_tokens=1000)
    assert found.n_walks == 1 and found.disk_nbytes == 2 * 4 * 1000 * 256 + 12345
    assert of(Effort.BALANCED).disk_nbytes == of(Effort.BALANCED).mapped_nbytes == 0


def test_on_the_way_to_gradients_what_goes_into_every_layer_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_layer_nbytes", lambda _: 12345)
    monkeypatch.setattr(cost, "_head_nbytes", lambda _: 23456)
    found = of(Effort.BALANCED, n_tokens=1000)  # fewer than gradients would be taken of
    assert found.disk_nbytes == (4 + 2) * 4 * 1000 * 256 + 23456
    assert found.mapped_nbytes == 23456 and of(Effort.FAST, n_tokens=1000).mapped_nbytes == 12345
    many = of(Effort.BALANCED, n_tokens=100_000)
    assert many.disk_nbytes == 2 * 4 * 100_000 * 256 + 12345


def test_a_layer_of_8x7b_is_read_once_by_eight_threads_in_6_gib() -> None:
    found = effort_cost(
        MIXTRAL, make_plan(MIXTRAL, "Q4_K_M"), Effort.BALANCED, threads=8, max_memory=6 << 30, n_tokens=100_000
    )
    assert found.n_walks == 1 and found.peak_nbytes <= 6 << 30


def test_one_layer_on_its_way_back_takes_little_of_what_all_take() -> None:
    plan, cap = make_plan(MIXTRAL, "Q4_K_M"), 64 << 30
    whole, one = (
        effort_cost(MIXTRAL, plan, Effort.BALANCED, threads=2, max_memory=cap, n_tokens=n) for n in (None, 10_000)
    )
    assert one.peak_nbytes < whole.peak_nbytes
    n, shapes = taped_tokens(MIXTRAL, by_layer=True), shapes_of(MIXTRAL)
    assert n == 512 and layer_tape_nbytes(MIXTRAL.hparams, shapes, n) < 1 << 30


def test_half_the_threads_take_twice_the_time() -> None:
    assert of(Effort.BEST, threads=1).encode_seconds == pytest.approx(2 * of(Effort.BEST).encode_seconds)
    assert of(Effort.FAST).encode_seconds < of(Effort.BALANCED).encode_seconds < of(Effort.BEST).encode_seconds


def test_gradients_of_large_models_are_taken_of_fewer_tokens() -> None:
    assert (taped_tokens(SMALL), taped_chunks(SMALL)) == (512, MAX_CHUNKS)
    n, shapes = taped_tokens(MIXTRAL), shapes_of(MIXTRAL)
    assert taped_chunks(MIXTRAL) == 8 and n < 512
    assert tape_nbytes(MIXTRAL.hparams, shapes, n) <= 6 << 30 < tape_nbytes(MIXTRAL.hparams, shapes, 2 * n)
