"""Moments of a walk fit the memory; layer by layer no walk goes beyond a layer."""

import pytest

from ggufkit.fitting.walks import Shape, moments_nbytes, plan_layer_walks, plan_walks, walks_nbytes

SHAPES: dict[str, Shape] = {
    "token_embd.weight": (1, 64),
    "blk.0.attn_q.weight": (1, 64),
    "blk.0.ffn_up_exps.weight": (4, 64),
    "blk.1.attn_q.weight": (1, 64),
    "output.weight": (1, 64),
}
ONE = 2 * 4 * 64 * 64  # two parts of the text, float32, a square matrix


@pytest.mark.parametrize(
    ("shape", "nbytes"),
    [
        ((1, 64), ONE),
        ((4, 64), 4 * ONE),
        ((1, 4096), 4 * 4096 * (4096 + 256)),
        ((8, 14336), 8 * 4 * 14336 * (3584 + 256)),
    ],
)
def test_moments_are_two_triangles_of_blocks_an_expert(shape: Shape, nbytes: int) -> None:
    assert moments_nbytes(shape) == nbytes


@pytest.mark.parametrize(("room", "sizes"), [(8 * ONE, [5]), (6 * ONE, [3, 2]), (2 * ONE, [2, 1, 2]), (0, [1] * 5)])
def test_a_walk_holds_as_many_tensors_as_have_room(room: int, sizes: list[int]) -> None:
    walks = plan_walks(SHAPES, room)
    assert [len(names) for names in walks] == sizes
    assert frozenset().union(*walks) == set(SHAPES)
    assert walks_nbytes(walks, SHAPES) <= max(room, 4 * ONE)


def test_layer_walks_end_with_their_layer_and_the_outside_comes_last() -> None:
    assert plan_layer_walks(SHAPES, 1 << 30) == [
        {"blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"},
        {"token_embd.weight", "blk.1.attn_q.weight", "output.weight"},
    ]
    assert [len(names) for names in plan_layer_walks(SHAPES, 4 * ONE)] == [1, 1, 3]


def test_nothing_takes_no_walk() -> None:
    assert plan_walks({}, 1) == plan_layer_walks({}, 1) == [] and walks_nbytes([], {}) == 0
