"""Which readings wait on the disk until types are known, in how many bytes, and how far doing others again has come."""

import pytest

from ggufkit.fitting import keeping
from ggufkit.fitting.keeping import Kept, Regathering, kept_in
from ggufkit.fitting.walks import Shape, plan_layer_walks

SHAPES: dict[str, Shape] = {
    "blk.0.attn_q.weight": (1, 64),
    "blk.0.ffn_up_exps.weight": (4, 64),
    "blk.1.attn_q.weight": (1, 64),
    "blk.2.ffn_up_exps.weight": (2, 4096),
    "output.weight": (1, 64),
}
ONE = 2 * 4 * 64 * 64  # two parts of the text, float32, a square matrix
WIDE = 2 * 4 * 2 * (4096 * (4096 + 256) // 2)  # two experts, of each half a square and strips along its diagonal
WALKS = plan_layer_walks(SHAPES, 1 << 40)  # one a layer
ALL = 5 * ONE + ONE + WIDE + ONE


@pytest.fixture(autouse=True)
def nothing_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_BESIDE_NBYTES", 0)


def test_with_room_all_moments_are_kept() -> None:
    assert kept_in(ALL, WALKS, SHAPES) == Kept(ALL)


@pytest.mark.parametrize(
    ("room", "nbytes", "again"),
    [
        (ALL - 1, 6 * ONE, [2]),
        (6 * ONE, 6 * ONE, [2]),
        (5 * ONE, 5 * ONE, [1, 2]),
        (ONE, ONE, [0, 2]),
        (0, 0, [0, 1, 2]),
    ],
)
def test_without_it_what_still_fits_is(room: int, nbytes: int, again: list[int]) -> None:
    assert kept_in(room, WALKS, SHAPES) == Kept(nbytes, tuple(WALKS[i] for i in again), ALL - nbytes)


def test_names_and_counts_take_room_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_BESIDE_NBYTES", 10)
    assert kept_in(ALL, WALKS, SHAPES).nbytes == 6 * ONE
    assert kept_in(ALL + 80, WALKS, SHAPES) == Kept(ALL)


def test_a_walk_that_is_done_again_counts_with_the_layers_on_the_way_to_it() -> None:
    one = Regathering(4)
    told = [one.fraction(walk, part) for walk, part in [(2, 0.5), (2, 1.0), (3, 0.5), (3, 1.0)]]
    assert told == pytest.approx([0.375, 0.75, 0.875, 1.0])
