"""A fitted run whose types are costed and whose experts are fitted on three workers: one process's bytes."""

import dataclasses
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufkit.cluster import tasks
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.relay import Relay
from ggufkit.progress import Progress
from ggufkit.recipes.search import Target
from ggufkit.workflows.fit_settings import FitSettings
from ggufkit.workflows.fitted import FitReport, quantize_fitted

ROOT = Path(__file__).resolve().parents[2]


def settings(output: Path, model: str, fit: dict[str, object], **changes: object) -> FitSettings:
    job = QuantizeSettings(source=ROOT / "models" / model, output=output, recipe="Q3_K_M", threads=1)
    base = FitSettings(quantize=dataclasses.replace(job, **changes), n_tokens=6 * 512)
    return dataclasses.replace(base, **fit)


CASES = {
    "types chosen": ("stories260K", {"target": Target(nbytes=290_000)}),
    "experts": ("tiny-mixtral", {"effort": Effort.FAST}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_bytes_and_report_are_those_of_one_process(
    case: str, address: str, kill_one: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, fit = CASES[case]
    here = quantize_fitted(settings(tmp_path / "here.gguf", model, fit))
    monkeypatch.setattr(tasks, "TRAVELS_NBYTES", 100)  # all that is known of an expert is handed over
    killed = False

    def on_progress(progress: Progress) -> None:
        nonlocal killed
        if not killed and progress.step == "encoding" and progress.done > 0:
            killed = True
            kill_one()

    there = quantize_fitted(settings(tmp_path / "there.gguf", model, fit, cluster=address), on_progress)
    assert killed and (tmp_path / "there.gguf").read_bytes() == (tmp_path / "here.gguf").read_bytes()
    assert rows(there) == rows(here)
    assert sorted(os.listdir(tmp_path)) == ["here.gguf", "there.gguf"]


def test_layers_read_the_text_on_several_workers_and_one_of_them_dies(
    address: str, kill_one: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = settings(tmp_path / "here.gguf", "stories260K", {"effort": Effort.BALANCED})
    quantize_fitted(here)
    run, layers, killed = Relay._run, [], []

    def kill_in(folder: Path) -> None:
        while not any(folder.glob("*/1.f32")):
            time.sleep(0.002)
        kill_one()
        killed.append(any(folder.glob("*/1.f32")))

    def watched(relay: Relay, window: range, folder: Path, secret: str) -> None:
        layers.append(list(window))
        if len(layers) == 2:
            threading.Thread(target=kill_in, args=(folder,)).start()
        run(relay, window, folder, secret)

    monkeypatch.setattr(Relay, "_run", watched)
    there = settings(tmp_path / "there.gguf", "stories260K", {"effort": Effort.BALANCED}, cluster=address)
    quantize_fitted(there)
    assert (tmp_path / "there.gguf").read_bytes() == (tmp_path / "here.gguf").read_bytes()
    assert layers == [[0, 1], [2, 3]]  # the last one of five is read here
    assert killed == [True]  # while the second two were at it
    assert sorted(os.listdir(tmp_path)) == ["here.gguf", "there.gguf"]


def rows(report: FitReport) -> tuple[int, int]:
    return report.rows_fitted, report.rows_plain
