"""Layers together and one by one: how many are compared, and which one is told where they differ."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufkit.architectures.source import open_source
from ggufkit.errors import CutError
from ggufkit.fitting.sources import agreement
from ggufkit.fitting.sources.agreement import check_agreement
from ggufkit.fitting.sources.cut import cut
from ggufkit.fitting.sources.scratch import plan_as_it_is
from ggufkit.runtime.loading import Device
from tests.fitting import stories

CHUNK = np.random.default_rng(3).integers(3, 512, 32).astype(np.int32)
OPEN = {"threads": 1, "device": Device.CPU}


@pytest.mark.parametrize(("n_fit", "n_compared"), [(0, 2), (3, 3), (100, stories.N_LAYER)])
def test_as_many_layers_as_fit_two_at_least(n_fit: int, n_compared: int, tmp_path: Path) -> None:
    with open_source(stories.FOLDER) as model:
        nbytes = plan_as_it_is(cut(model, 0, 1)).data_nbytes
        assert check_agreement(model, CHUNK, tmp_path, max_nbytes=n_fit * nbytes, **OPEN) == n_compared
    assert not list(tmp_path.iterdir())


def test_the_layer_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(model: Any, first: int, stop: int, **more: Any) -> Any:
        return cut(model, 2, 3, **more) if (first, stop) == (3, 4) else cut(model, first, stop, **more)

    monkeypatch.setattr(agreement, "cut", mistaken)
    with (
        open_source(stories.FOLDER) as model,
        pytest.raises(CutError, match=r"^this llama model cannot be run layer by layer: alone, layer 3 gives"),
    ):
        check_agreement(model, CHUNK, tmp_path, **OPEN)
    assert not list(tmp_path.iterdir())
