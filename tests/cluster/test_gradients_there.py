"""Gradients that three worker processes take, several layers at once, are those of one process, bit for bit."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ggufkit.architectures.source import open_source
from ggufkit.cluster.tasks import Cluster
from ggufkit.fitting import gradient_relay, layers_at_once
from ggufkit.fitting.cost import shapes_of
from ggufkit.fitting.gradient_relay import GradientRelay
from ggufkit.fitting.layer_gradients import GradientSettings, LayerGradients
from ggufkit.fitting.layers_at_once import LayersAtOnce
from ggufkit.fitting.token_weights import TokenWeights
from ggufkit.formats.model import Model

MODELS = Path(__file__).resolve().parents[2] / "models"
N_CHUNK, N = 6, 64

State = dict[str, np.ndarray]


class StopError(Exception):
    """The machine goes down."""


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with open_source(MODELS / "stories260K") as model:
        yield model


def gradients(model: Model, folder: Path, identity: str = "") -> LayerGradients:
    chunks = np.random.default_rng(5).integers(3, 300, (2 * N_CHUNK, N)).astype(np.int32)
    settings = GradientSettings(
        wants=shapes_of(model).__contains__, n_ctx=N, folder=folder / "gradients", threads=1, identity=identity,
        max_chunks=N_CHUNK,
    )  # fmt: skip
    return LayerGradients(model, chunks, settings)


@pytest.fixture(scope="module")
def alone(model: Model, tmp_path_factory: pytest.TempPathFactory) -> State:
    return gradients(model, tmp_path_factory.mktemp("alone")).measure().state()


@pytest.fixture
def relay(cluster: Cluster) -> GradientRelay:
    cluster.admit(fine)
    return GradientRelay(LayersAtOnce(cluster, 1), lambda: 1 << 40)


def fine() -> str:
    return ""


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("way", ["there", "back"])
def test_one_that_dies_in_the_middle_changes_nothing(
    way: str, model: Model, relay: GradientRelay, kill_one: Callable[[], None], alone: State, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    killed: list[bool] = []
    windows: list[list[int]] = []

    def kill_in(folder: Path) -> None:
        while not any(folder.glob("*/0.f32")):
            time.sleep(0.001)
        kill_one()
        killed.append(True)

    run = LayersAtOnce.run

    def watched(at_once: LayersAtOnce, function: Any, tasks: dict[int, Any], *args: Any) -> None:
        windows.append(list(tasks))
        if not killed and function is (gradient_relay.take_ahead if way == "there" else gradient_relay.take_back):
            folder = tmp_path / "gradients" / "relay"
            threading.Thread(target=kill_in, args=(folder,)).start()
        run(at_once, function, tasks, *args)

    monkeypatch.setattr(LayersAtOnce, "run", watched)
    told: list[float] = []
    got = gradients(model, tmp_path).measure(lambda done, total: told.append(done / total), relay)
    assert same(got.state(), alone) and killed
    undisturbed = [[0, 1]] if way == "there" else [[0, 1], [2, 3], [5, 4]]  # a place is left for a worker that dies
    assert windows[: len(undisturbed)] == undisturbed
    assert told == sorted(told) and told[-1] == 1.0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", [0.1, 0.35, 0.7, 0.9])
def test_a_run_that_ended_goes_on_alone_or_with_workers(
    part: float, model: Model, relay: GradientRelay, alone: State, tmp_path: Path
) -> None:
    def down(done: int, total: int) -> None:
        if done / total >= part:
            raise StopError

    for first, then in ((relay, None), (None, relay)):
        with pytest.raises(StopError):
            gradients(model, tmp_path).measure(down, first)
        assert not (tmp_path / "gradients" / "relay").exists() and not (tmp_path / "gradients" / "layer.gguf").exists()
        told: list[float] = []
        got = gradients(model, tmp_path).measure(lambda done, total: told.append(done / total), then)  # noqa: B023
        assert same(got.state(), alone) and told[-1] == 1.0


def test_what_a_layer_gave_is_kept_as_soon_as_it_is_complete(
    model: Model, relay: GradientRelay, alone: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted, seen = LayerGradients._noted, []

    def watched(self: Any, layer: int, *what: Any) -> TokenWeights:
        seen.append(layer)
        if len(seen) == 4:
            raise StopError
        return noted(self, layer, *what)

    monkeypatch.setattr(LayerGradients, "_noted", watched)
    with pytest.raises(StopError):
        gradients(model, tmp_path).measure(relay=relay)
    assert seen == [5, 4, 3, 2]
    assert same(gradients(model, tmp_path).measure().state(), alone)
    assert seen[4:] == [2, 1, 0]


def test_workers_that_do_not_share_the_folder_leave_it_to_the_command(
    model: Model, cluster: Cluster, relay: GradientRelay, alone: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "ask", lambda *_: {"tcp://elsewhere:1": False})
    monkeypatch.setattr(LayersAtOnce, "run", pytest.fail)
    assert same(gradients(model, tmp_path).measure(relay=relay).state(), alone)
    assert [note for note in cluster.notes if "tcp://elsewhere:1 does not see" in note] == cluster.notes[-1:]


def test_a_disk_without_room_for_pieces_is_left_to_the_command(
    model: Model, cluster: Cluster, alone: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.admit(fine)
    one = 4 * N_CHUNK * N * model.hparams.n_embd
    monkeypatch.setattr(LayersAtOnce, "run", pytest.fail)
    tight = GradientRelay(LayersAtOnce(cluster, 1), lambda: 2 * one - 1)
    assert same(gradients(model, tmp_path).measure(relay=tight).state(), alone)


@pytest.mark.parametrize(
    ("workers", "threads", "here", "n"),
    [
        ([1, 1, 1], 3, 1, 2),  # one may die
        ([1, 1, 1], 3, 2, 0),  # here two threads are as fast as two workers
        ([16] * 8, 128, 16, 8),
        ([16], 16, 16, 0),
        ([16, 16], 32, 8, 2),
        ([16, 1], 17, 16, 0),
    ],
)
def test_as_many_layers_as_are_worth_it(workers: list[int], threads: int, here: int, n: int) -> None:
    assert sum(workers) == threads
    cluster: Any = SimpleNamespace(n_workers=len(workers), n_threads=threads, spare_threads=threads - max(workers))
    assert layers_at_once.LayersAtOnce(cluster, here).n == n
