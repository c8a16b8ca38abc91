"""The bar of a fitted run: steps in the order of the run, and nothing that goes back."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.sources.layer_by_layer import Stream
from ggufkit.progress import Progress
from ggufkit.recipes.search import Target
from ggufkit.workflows.fit_settings import FitSettings
from ggufkit.workflows.fitted import quantize_fitted
from tests.workflows.forwards import assert_forwards, steps_of

MODELS = Path(__file__).resolve().parents[2] / "models"
READ_FOR_TYPES = ["weighing tokens", "calibration and types"]
READ_TO_ENCODE = ["weighing tokens", "calibration and encoding"]

# model, settings, and the steps that are shown
CASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "a size": ("tiny-mixtral", {"target": Target(bpw=4.5)}, [*READ_FOR_TYPES, "encoding"]),
    "a divergence": (
        "stories260K", {"target": Target(kld=0.1)}, [*READ_FOR_TYPES, "quick file", "trying types", "encoding"]
    ),
    "given types": ("stories260K", {}, READ_TO_ENCODE),
    "as stored": ("stories260K", {"stream": Stream.STORED}, READ_TO_ENCODE),
    "fast": ("stories260K", {"effort": Effort.FAST}, ["calibration", "encoding"]),
    "as a whole": (
        "stories260K", {"by_layer": False, "target": Target(kld=0.1)},
        ["quick file", "weighing tokens", "calibration", "types", "trying types", "encoding"],
    ),
}  # fmt: skip


def settings(output: Path, case: str, **changes: object) -> FitSettings:
    model, fit, _ = CASES[case]
    job = QuantizeSettings(source=MODELS / model, output=output, threads=2)
    fit = {"n_tokens": 8 * 512, "n_probe": 2} | fit
    return FitSettings(quantize=dataclasses.replace(job, **changes), **fit)


@pytest.mark.parametrize("case", list(CASES))
def test_it_never_goes_back(case: str, tmp_path: Path) -> None:
    told: list[Progress] = []
    quantize_fitted(settings(tmp_path / "out.gguf", case), told.append)
    assert_forwards(told)
    assert steps_of(told) == CASES[case][2]


@pytest.mark.parametrize(
    ("case", "step"),
    [("a divergence", "types"), ("a divergence", "trying types"), ("given types", "encoding")],
)
def test_a_run_that_goes_on_never_goes_back_either(case: str, step: str, tmp_path: Path) -> None:
    told: list[Progress] = []

    def stop(progress: Progress) -> None:
        told.append(progress)
        if progress.step == step and sum(one.step == step for one in told) > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_fitted(settings(tmp_path / "out.gguf", case), stop)
    assert_forwards(told, ends=False)
    told.clear()
    quantize_fitted(settings(tmp_path / "out.gguf", case, resume=True), told.append)
    assert_forwards(told)
    assert steps_of(told) == [title for title in CASES[case][2] if title in steps_of(told)]
