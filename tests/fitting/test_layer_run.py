"""What goes in comes out as the layers make it: by numpy, in order, and no more than is asked for."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufkit.errors import EngineError, InputError
from ggufkit.fitting.sources.layer_run import LayerRun, require_finite
from ggufkit.fitting.sources.layer_tape import LayerTape
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


class Watcher:
    """Who is told, and would keep gigabytes of moments."""

    def __call__(self, *_: Any) -> None:
        pass


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_who_watched_and_what_went_in_are_gone_with_the_run(stories_f32: Path) -> None:
    """Not when the collector comes by, which it hardly does where few objects hold much memory."""
    with without_collector():
        rows, watcher = np.zeros((24, stories.N_EMBD), dtype=np.float32), Watcher()
        gone = [weakref.ref(rows), weakref.ref(watcher)]
        with LayerRun(stories_f32, observe=watcher, wants=lambda name: "ffn_down" in name, **OPEN) as run:
            run(rows)
        gone.append(weakref.ref(run))
        del run, rows, watcher
        assert [one() is None for one in gone] == [True] * 3


def test_who_is_told_of_gradients_is_gone_with_the_tape(stories_f32: Path) -> None:
    with without_collector():
        rows, told = np.zeros((24, stories.N_EMBD), dtype=np.float32), Watcher()
        gone = [weakref.ref(rows), weakref.ref(told)]
        with LayerTape(stories_f32, n_ctx=24, threads=1, on_output=told, takes_rows=True, with_head=False) as tape:
            tape.forward(rows)
            tape.back(rows + 1)
        gone += [weakref.ref(tape), weakref.ref(tape._tape)]  # which holds what it recorded
        del tape, rows, told
        assert [one() is None for one in gone] == [True] * 4
