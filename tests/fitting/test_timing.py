"""What a layer of the model in hand takes here: every rate is there, and nothing is left behind."""

import math
from pathlib import Path

import pytest

from ggufkit.architectures.source import open_source
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import EngineError
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.timing import measured_rates
from ggufkit.recipes.build import make_plan
from ggufkit.workflows import fit_plan
from ggufkit.workflows.fit_plan import opened
from ggufkit.workflows.fit_settings import FitSettings
from tests.architectures import tiny
from tests.conftest import TINY_MIXTRAL


@pytest.mark.parametrize("effort", [Effort.FAST, Effort.BALANCED])
def test_every_rate_is_measured(effort: Effort, tmp_path: Path) -> None:
    with open_source(TINY_MIXTRAL) as model:
        plan = make_plan(model, "Q3_K_M")
        rates = measured_rates(model, plan, effort, threads=1, folder=tmp_path)
        columns = {t.tensor.n_per_row for t in plan.tensors if t.qtype.is_quantized}
    assert not list(tmp_path.iterdir())
    assert rates.are_measured
    assert {n for _, n in rates.encode} == columns == set(rates.table) == set(rates.curvature)
    assert {name for name, _ in rates.encode} >= {"Q3_K", "Q4_K"}
    every = [rates.reading, rates.back, rates.moments, rates.copy]
    for rate in (*every, *rates.table.values(), *rates.encode.values(), *rates.curvature.values()):
        assert 0 < rate < math.inf


def test_a_family_that_is_not_cut_is_not_tried(tmp_path: Path) -> None:
    with (
        open_source(tiny.build("qwen3-next-80b-a3b-instruct", tmp_path)) as model,
        pytest.raises(EngineError, match="never been compared"),
    ):
        measured_rates(model, make_plan(model, "Q4_0"), Effort.BALANCED, threads=1, folder=tmp_path)


def test_short_runs_and_weights_that_are_not_there_are_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.build("tinyllama-1.1b", tmp_path)
    settings = FitSettings(quantize=QuantizeSettings(source=folder, output=tmp_path / "out.gguf", threads=1))
    with opened(settings) as job:
        before = dict(job.seconds)
        job.measure()
        assert job.seconds == before and not job.said.are_measured, "a run of seconds"
        monkeypatch.setattr(fit_plan, "_WORTH_MEASURING_S", 0.0)
        for weights in folder.glob("*.safetensors"):
            weights.write_bytes(weights.read_bytes()[:-1])
        job.measure()
        assert job.seconds == before and not job.said.are_measured


def test_a_run_of_more_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_plan, "_WORTH_MEASURING_S", 0.0)
    settings = FitSettings(quantize=QuantizeSettings(source=TINY_MIXTRAL, output=tmp_path / "out.gguf", threads=1))
    with opened(settings) as job:
        job.measure()
        assert job.said.are_measured and all(seconds > 0 for seconds in job.seconds.values())
    assert not list(tmp_path.iterdir())
