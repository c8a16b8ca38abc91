"""What goes in comes out as the layers make it: by numpy, in order, and no more than is asked for."""

from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import EngineError, InputError
from ggufkit.fitting.sources.layer_run import LayerRun, require_finite
from ggufkit.runtime.loading import Device
from tests.fitting import stories

OPEN = {"n_ctx": 24, "threads": 1, "device": Device.CPU}
TOKENS = np.random.default_rng(3).integers(3, 512, 24).astype(np.int32)


def test_the_first_row_of_every_layer_is_numpys(stories_f32: Path) -> None:
    with LayerRun(stories_f32, n_layer=stories.N_LAYER, **OPEN) as run:
        found = run(TOKENS)
    assert [x.shape for x in found] == [(24, stories.N_EMBD)] * stories.N_LAYER
    wanted = stories.first_row(stories.weights(stories_f32), int(TOKENS[0]))
    for x, row in zip(found, wanted, strict=True):
        np.testing.assert_allclose(x[0], row, rtol=0, atol=1e-3 * np.abs(row).max())


def test_a_chunk_knows_nothing_of_the_one_before(stories_f32: Path) -> None:
    with LayerRun(stories_f32, **OPEN) as run:
        (first,) = run(TOKENS)
        run(TOKENS[::-1].copy())
        (again,) = run(TOKENS)
    assert np.array_equal(first, again)


def test_rows_are_run_like_the_ids_they_stand_for_and_their_scale_is_taken_back(stories_f32: Path) -> None:
    rows = stories.weights(stories_f32)["token_embd.weight"][TOKENS].astype(np.float32)
    with LayerRun(stories_f32, **OPEN) as run:
        (by_id,), (by_row,) = run(TOKENS), run(rows)
    with LayerRun(stories_f32, input_scale=4.0, **OPEN) as run:
        (scaled,) = run(rows * 4)
    assert np.array_equal(by_id, by_row) and np.array_equal(by_id, scaled)


@pytest.mark.parametrize("with_head", [False, True])
def test_the_head_is_computed_only_where_it_is_looked_at(stories_f32: Path, with_head: bool) -> None:
    seen: list[str] = []
    with LayerRun(
        stories_f32, n_layer=stories.N_LAYER, with_head=with_head, **OPEN,
        observe=lambda one: seen.append(one.name), wants=lambda name: "ffn_down" in name or "token_embd" in name,
    ) as run:  # fmt: skip
        run(TOKENS)
    layers = [f"blk.{i}.ffn_down.weight" for i in range(stories.N_LAYER)]
    assert seen == layers + ["token_embd.weight"] * with_head


def test_a_layer_that_is_not_there_is_told(stories_f32: Path) -> None:
    with (
        LayerRun(stories_f32, n_layer=stories.N_LAYER + 1, **OPEN) as run,
        pytest.raises(EngineError, match="not called l_out"),
    ):
        run(TOKENS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_layer_that_overflows_is_named(bad: float) -> None:
    x = np.zeros((2, 3), dtype=np.float32)
    require_finite(x, 4, "some-model")
    x[1, 2] = bad
    with pytest.raises(InputError, match=r"^some-model: layer 4 gives NaN or infinite"):
        require_finite(x, 4, "some-model")
