"""Sums layer by layer are the whole model's, and what an earlier run kept is not gathered again."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ggufkit.architectures.source import open_source
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.layer_sums import gather_sums
from ggufkit.fitting.sources.layer_by_layer import LayerByLayer
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.fitting.sums import SumsObserver, wants_block_weights
from ggufkit.formats.text import CALIBRATION_TEXT, shipped_text
from ggufkit.progress import Progress
from ggufkit.runtime.loading import Device
from tests.fitting import stories

N_CHUNK, N_CTX = 3, 64
TEXT = shipped_text(CALIBRATION_TEXT)[:20000]


def corpus(model: Path) -> Corpus:
    return Corpus(model, TEXT, n_tokens=N_CHUNK * N_CTX, n_ctx=N_CTX, threads=1, device=Device.CPU)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[LayerByLayer]:
    with open_source(stories.FOLDER) as model:
        source = LayerByLayer(model, corpus(stories.FOLDER), tmp_path / "layers")
        yield source
        source.close()


def layers_run(source: LayerByLayer, wants=wants_block_weights):
    """The sums, and which layers were run for them."""
    told: list[Progress] = []
    sums = gather_sums(source, wants, told.append)
    assert {(one.total, one.unit) for one in told} <= {(stories.N_LAYER, "layers")}
    return sums, sorted({int(np.ceil(one.done)) - 1 for one in told})


def test_they_are_the_whole_models(source: LayerByLayer, stories_f32: Path) -> None:
    whole = SumsObserver(wants_block_weights)
    WholeModel(corpus(stories_f32)).observe(whole)
    sums, run = layers_run(source)
    assert run == list(range(stories.N_LAYER))
    assert sums.keys() == whole.sums.keys() and len(sums) == 7 * stories.N_LAYER
    for name, one in whole.sums.items():
        assert sums[name].counts.tolist() == one.counts.tolist() == [N_CHUNK * N_CTX]
        np.testing.assert_allclose(sums[name].sums, one.sums, rtol=1e-4, atol=1e-6 * one.sums.max())


def test_only_what_is_missing_damaged_or_of_other_tensors_is_gathered_again(source: LayerByLayer) -> None:
    first, _ = layers_run(source)
    (source.folder / "sums-1.npz").unlink()
    damaged = source.folder / "sums-3.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    again, run = layers_run(source)
    assert run == [1, 3] and again.keys() == first.keys()
    for name, one in first.items():
        assert np.array_equal(again[name].sums, one.sums) and np.array_equal(again[name].counts, one.counts), name
    assert layers_run(source)[1] == []
    fewer, run = layers_run(source, lambda name: wants_block_weights(name) and name != "blk.2.attn_q.weight")
    assert run == [2] and first.keys() - fewer.keys() == {"blk.2.attn_q.weight"}
