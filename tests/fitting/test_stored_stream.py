"""The stream that goes on through layers as they are stored: each layer sees what it will see in the finished file."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ggufkit.architectures.source import open_source
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.sources.cut import cut
from ggufkit.fitting.sources.layer_by_layer import LayerByLayer, Stream, chunks_of
from ggufkit.fitting.sources.layer_run import LayerRun
from ggufkit.fitting.sources.scratch import write_as_it_is
from ggufkit.fitting.sums import SumsObserver
from ggufkit.formats.text import CALIBRATION_TEXT, shipped_text
from ggufkit.recipes.quantizable import layer_of
from ggufkit.runtime.loading import Device
from ggufkit.workflows.quantize import quantize

SOURCE = Path(__file__).resolve().parents[2] / "models" / "tiny-mixtral"
NAMES = frozenset({"blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.2.ffn_gate_exps.weight"})


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "q2.gguf"
    quantize(QuantizeSettings(source=SOURCE, output=path, recipe="Q2_K", threads=1))
    with open_source(path, allow_requantize=True) as model:
        yield model


def sums(model, corpus, folder, stored=None):
    source = LayerByLayer(model, corpus, folder, stream=Stream.STORED if stored else Stream.ORIGINAL)
    source.stored = stored
    observer = SumsObserver(NAMES.__contains__)
    for layer in range(3):  # as fitting asks: one layer after the other
        source.observe(_Only(observer, layer))
    source.discard()
    return {name: one.sums for name, one in observer.sums.items()}


class _Only:
    """The same observer, for one layer."""

    def __init__(self, observer, layer):
        self.observer, self.prefix = observer, f"blk.{layer}."

    def wants(self, name):
        return name.startswith(self.prefix) and self.observer.wants(name)

    def begin_group(self, index):
        self.observer.begin_group(index)

    def __call__(self, seen):
        self.observer(seen)


def test_a_layer_sees_what_stored_layers_give(stored, tmp_path):
    corpus = Corpus(SOURCE, shipped_text(CALIBRATION_TEXT), n_tokens=2 * 512, threads=1, device=Device.CPU)
    with open_source(SOURCE) as model:
        layers = {t.name: t for t in stored.tensors if layer_of(t.name) >= 0}
        through = dataclasses.replace(model, tensors=tuple(layers.get(t.name, t) for t in model.tensors))
        original, quantized = (sums(model, corpus, tmp_path / "s", stored=one) for one in (None, through))
        assert np.array_equal(original["blk.0.attn_q.weight"], quantized["blk.0.attn_q.weight"])
        for name in NAMES - {"blk.0.attn_q.weight"}:
            assert not np.allclose(original[name], quantized[name], rtol=1e-3)
        chunks = chunks_of(model, corpus, tmp_path)
        ids, local = np.unique(chunks, return_inverse=True)
        write_as_it_is(tmp_path / "two.gguf", cut(through, 0, 2, ids=ids), threads=1)
        observer = SumsObserver("blk.1.attn_q.weight".__eq__)
        with LayerRun(
            tmp_path / "two.gguf", n_layer=2, n_ctx=512, threads=1, device=Device.CPU,
            observe=observer, wants=observer.wants,
        ) as run:  # fmt: skip
            for chunk in local.reshape(chunks.shape).astype(np.int32):
                run(chunk)
        wanted = observer.sums["blk.1.attn_q.weight"].sums
        np.testing.assert_allclose(quantized["blk.1.attn_q.weight"], wanted, rtol=1e-6)


def test_the_same_layers_give_the_same_stream(tmp_path):
    corpus = Corpus(SOURCE, shipped_text(CALIBRATION_TEXT), n_tokens=2 * 512, threads=1, device=Device.CPU)
    with open_source(SOURCE) as model:
        original, same = (sums(model, corpus, tmp_path / "s", stored=one) for one in (None, dataclasses.replace(model)))
    for name in NAMES:
        assert np.array_equal(original[name], same[name])
