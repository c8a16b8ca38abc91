"""Gradients that are taken back layer by layer are the whole model's, in every family that can be cut."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from ggufkit.architectures import convert
from ggufkit.architectures.source import open_source
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting import layer_gradients
from ggufkit.fitting.layer_gradients import GradientSettings, LayerGradients
from ggufkit.fitting.sources import cut
from ggufkit.fitting.sources.layer_run import EXACT
from ggufkit.fitting.token_weights import GradientSums, TokenWeights, drawn_gradient, draws
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.runtime.backward import Backward
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.library import load
from ggufkit.runtime.tape import Tape, looked_up
from ggufkit.workflows.quantize import quantize
from tests.architectures import tiny
from tests.architectures.emit import write_gguf
from tests.fitting import layered

MODELS = Path(__file__).resolve().parents[2] / "models"
N = 24


def chunks_of(n_vocab: int, n_chunk: int = 2, n: int = N) -> np.ndarray:
    return np.random.default_rng(5).integers(3, n_vocab, (n_chunk, n)).astype(np.int32)


def whole(path: Path, chunks: np.ndarray) -> TokenWeights:
    """Through the model at once."""
    tape, sums, n = Tape(load()), GradientSums(lambda name: True), chunks.shape[1]
    back = Backward(tape, sums, 2)
    with Engine.open(
        path, n_ctx=n, n_batch=n, n_ubatch=n, n_outputs=n, threads=1, eval_callback=tape.callback, **EXACT
    ) as engine:
        for index, chunk in enumerate(chunks):
            tape.clear()
            engine.clear()
            engine.decode(chunk, 0, logits=1)
            tape.reraise()
            back(drawn_gradient(engine.logits(n), draws(index, n)))
    back.close()
    return TokenWeights(sums.stiffness(np.arange(len(chunks)), n), *chunks.shape)


def settings(folder: Path, **changes: object) -> GradientSettings:
    base = GradientSettings(wants=lambda name: True, n_ctx=N, folder=folder / "gradients", threads=1)
    return dataclasses.replace(base, **changes)


def by_layer(path: Path, chunks: np.ndarray, folder: Path, **changes: object) -> TokenWeights:
    model = open_source(path)
    got = LayerGradients(model, chunks, settings(folder, **changes)).measure()
    for file in model.files:
        file.close()
    assert not (folder / "gradients").exists()
    return got


def agree(path: Path, chunks: np.ndarray, folder: Path, rel: float = 1e-4) -> TokenWeights:
    wanted, got = whole(path, chunks), by_layer(path, chunks, folder)
    assert got.by_name.keys() == wanted.by_name.keys()
    for name, one in wanted.by_name.items():
        other = got.by_name[name]
        np.testing.assert_allclose(other.weights, one.weights, rtol=rel, atol=rel, err_msg=name)
        np.testing.assert_allclose(other.rows, one.rows, rtol=rel, atol=rel * one.rows.max(), err_msg=name)
        assert other.mean == pytest.approx(one.mean, rel=rel), name
        assert np.array_equal(other.chunks, one.chunks)
    return got


@pytest.mark.parametrize("case", tiny.CASES)
def test_every_family_that_can_be_cut(case: str, tmp_path: Path) -> None:
    model = convert(Checkpoint.open(tiny.build(case, tmp_path)))
    if not cut.is_cuttable(model):
        pytest.skip("never run layer by layer")
    path = write_gguf(tmp_path / "model.gguf", model.metadata, model.tensors)
    agree(path, chunks_of(model.hparams.n_vocab), tmp_path)


@pytest.mark.parametrize("make", [layered.gemma3, layered.granite])
def test_windows_and_scales_that_go_by_the_layer(make: object, tmp_path: Path) -> None:
    path = make(tmp_path / "model.gguf")  # type: ignore[operator]
    got = agree(path, chunks_of(layered.N_VOCAB), tmp_path)
    # one matrix, at both ends
    assert {"token_embd.weight", looked_up("token_embd.weight"), "blk.2.attn_v.weight"} <= set(got.by_name)


@pytest.mark.parametrize(
    ("name", "recipe"), [("tiny-mixtral", "BF16"), ("stories260K", "F32"), ("stories260K", "Q8_0")]
)
def test_the_shipped_models(name: str, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_gradients, "HEAD_TOKENS", 10)  # does not divide a chunk
    path = tmp_path / "model.gguf"
    quantize(QuantizeSettings(source=MODELS / name, output=path, recipe=recipe, threads=1))
    got = agree(path, chunks_of(400), tmp_path)
    if name == "tiny-mixtral":
        assert got.by_name["blk.3.ffn_down_exps.weight"].weights.shape == (2, N, 2)


class StopError(Exception):
    """The machine goes down."""


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixtral") / "model.gguf"
    quantize(QuantizeSettings(source=MODELS / "tiny-mixtral", output=path, recipe="BF16", threads=1))
    return path


@pytest.fixture(scope="module")
def undisturbed(mixtral: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return by_layer(mixtral, chunks_of(400), tmp_path_factory.mktemp("undisturbed")).state()


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_threads_change_nothing(mixtral: Path, undisturbed: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert same(by_layer(mixtral, chunks_of(400), tmp_path, threads=3).state(), undisturbed)


@pytest.mark.parametrize("after", [1, 5, 9, 10, 13, 17, 18])  # four layers there, the head and four layers back, 2 each
@pytest.mark.parametrize("found_is_lost", [False, True])
def test_a_run_that_ended_anywhere_goes_on(
    after: int, found_is_lost: bool, mixtral: Path, undisturbed: dict[str, np.ndarray], tmp_path: Path
) -> None:
    calls: list[float] = []

    def down(done: int, total: int) -> None:
        calls.append(done / total)
        if len(calls) == after:
            raise StopError

    kept = settings(tmp_path)
    with open_source(mixtral) as model:
        with pytest.raises(StopError):
            LayerGradients(model, chunks_of(400), kept).measure(down)
        assert not (kept.folder / "layer.gguf").exists()
        calls.clear()
        if found_is_lost:
            shutil.rmtree(kept.folder / "found")
        got = LayerGradients(model, chunks_of(400), kept).measure(lambda done, total: calls.append(done / total))
    assert same(got.state(), undisturbed)
    assert calls[-1] == 1.0 and calls == sorted(calls)
    if not found_is_lost:
        assert len(calls) <= 2 * (9 - (after - 1) // 2), "at most one layer is done again"
    assert not kept.folder.exists()


def test_what_lies_there_of_another_model_is_not_gone_on_with(
    mixtral: Path, undisturbed: dict[str, np.ndarray], tmp_path: Path
) -> None:
    def down(done: int, total: int) -> None:
        if done > total / 2:
            raise StopError

    with open_source(mixtral) as model:
        other = settings(tmp_path, identity="another")
        with pytest.raises(StopError):
            LayerGradients(model, chunks_of(300), other).measure(down)
        got = LayerGradients(model, chunks_of(400), settings(tmp_path)).measure()
    assert same(got.state(), undisturbed)
