"""Layers alone compute what they compute in the whole model, in every family; where they cannot, it is found out."""

import numpy as np
import pytest

from ggufkit.architectures import convert
from ggufkit.architectures.source import open_source
from ggufkit.errors import EngineError
from ggufkit.fitting.sources import cut
from ggufkit.fitting.sources.agreement import check_agreement
from ggufkit.fitting.sources.layer_run import LayerRun
from ggufkit.fitting.sources.scratch import write_as_it_is
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.formats.model import Model
from ggufkit.runtime.loading import Device
from tests.architectures import tiny
from tests.architectures.emit import write_gguf
from tests.fitting import layered

OPEN = {"threads": 1, "device": Device.CPU}


def whole(path, tokens, n_layer):
    """Every layer's output of the model as it stands in the file."""
    with LayerRun(path, n_layer=n_layer, n_ctx=len(tokens), **OPEN) as run:
        return run(tokens)


def one_by_one(model: Model, tokens, folder):
    ids, local = np.unique(tokens, return_inverse=True)
    x = local.astype(np.int32)
    for layer in range(model.hparams.n_layer):
        write_as_it_is(folder / "layer.gguf", cut.cut(model, layer, layer + 1, ids=None if layer else ids), threads=1)
        scale = cut.input_scale(model)
        with LayerRun(folder / "layer.gguf", n_ctx=len(tokens), input_scale=scale, **OPEN) as run:
            (x,) = run(x)
        yield x


@pytest.mark.parametrize("name", tiny.CASES)
def test_each_layer_alone_gives_the_whole_models_stream(name, tmp_path):
    model = convert(Checkpoint.open(tiny.build(name, tmp_path)))
    path = write_gguf(tmp_path / "model.gguf", model.metadata, model.tensors)
    with Model_of(path) as stored:
        if not cut.is_cuttable(stored):
            with pytest.raises(EngineError, match="never been compared"):
                check_agreement(stored, np.arange(16, dtype=np.int32), tmp_path, **OPEN)
            return
        tokens = np.random.default_rng(3).integers(3, stored.hparams.n_vocab, 48).astype(np.int32)
        wanted = whole(path, tokens, stored.hparams.n_layer)
        for alone, together in zip(one_by_one(stored, tokens, tmp_path), wanted, strict=True):
            if cut.input_scale(stored) == 1:
                assert np.array_equal(alone, together)  # to the bit
            np.testing.assert_allclose(alone, together, atol=1e-5 * np.abs(together).max())
        assert check_agreement(stored, tokens, tmp_path, threads=1, device=Device.CPU) == stored.hparams.n_layer


class Model_of:  # noqa: N801  a context manager, until models are ones themselves
    def __init__(self, path):
        self.model = open_source(path)

    def __enter__(self):
        return self.model

    def __exit__(self, *_):
        for file in self.model.files:
            file.close()


@pytest.mark.parametrize(
    "make",
    [
        layered.gemma3,
        lambda path: layered.gemma3(path, 5, **{"gemma3.attention.sliding_window_pattern": 2}),
        lambda path: layered.gemma3(path, 3, **{"gemma3.attention.sliding_window_pattern": [False, True, False]}),
        layered.granite,
    ],
    ids=["every sixth", "every second", "listed", "scaled"],
)
def test_layers_that_go_by_their_number_keep_their_kind(make, tmp_path):
    path = make(tmp_path / "model.gguf")
    tokens = np.random.default_rng(3).integers(0, layered.N_VOCAB, 64).astype(np.int32)
    with Model_of(path) as model:
        n_layer = model.hparams.n_layer
        for alone, together in zip(one_by_one(model, tokens, tmp_path), whole(path, tokens, n_layer), strict=True):
            np.testing.assert_allclose(alone, together, atol=1e-5 * np.abs(together).max())
        assert check_agreement(model, tokens, tmp_path, **OPEN) == n_layer


def test_layers_of_every_kind_are_compared_however_little_memory(tmp_path):
    with Model_of(layered.gemma3(tmp_path / "model.gguf")) as model:
        tokens = np.arange(64, dtype=np.int32)
        assert check_agreement(model, tokens, tmp_path, **OPEN, max_nbytes=1) == 6


def test_a_layer_that_comes_out_otherwise_alone_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(cut, "_WINDOWS", {})
    with Model_of(layered.gemma3(tmp_path / "model.gguf")) as model:
        tokens = np.arange(64, dtype=np.int32)
        with pytest.raises(EngineError, match=r"this gemma3 model cannot be run layer by layer: alone, layer 5 gives"):
            check_agreement(model, tokens, tmp_path, **OPEN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf"]


def test_a_model_that_llama_cpp_knows_by_its_number_of_layers_keeps_it(tmp_path):
    path = layered.gemma3(tmp_path / "model.gguf", 62)
    with Model_of(path) as model:
        part = cut.cut(model, 3, 4)
        assert (part.kv("gemma3.block_count"), part.hparams.n_layer) == (62, 1)
        tokens = np.arange(16, dtype=np.int32)
        assert check_agreement(model, tokens, tmp_path, **OPEN, max_nbytes=1) == 6
        wanted = whole(path, tokens, 1)
        (alone,) = next(iter([[x] for x in one_by_one(model, tokens, tmp_path)]))
        assert np.array_equal(alone, wanted[0])


def test_entries_with_a_value_a_layer_are_cut_with_the_layers(tmp_path):
    entries = layered.sizes("llama") | {"llama.feed_forward_length": [96, 64, 96]}
    path = layered.write(tmp_path / "model.gguf", "llama", 3, entries, {})
    with Model_of(path) as model:
        part = cut.cut(model, 1, 3)
    assert part.kv("llama.feed_forward_length") == [64, 96]
    assert part.kv("llama.block_count") == 2
