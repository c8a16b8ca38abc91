"""Settings open their source as they say."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import GgufkitError

ROOT = Path(__file__).parents[2]


def test_the_source_is_opened(tmp_path: Path) -> None:
    with QuantizeSettings(source=ROOT / "models" / "tiny-mixtral", output=tmp_path / "out.gguf").open() as model:
        assert (model.hparams.arch, model.hparams.n_expert > 1) == ("llama", True)


def test_a_quantized_source_is_opened_where_that_is_allowed(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    settings = QuantizeSettings(source=tiny("Q4_K_M"), output=tmp_path / "out.gguf")
    with pytest.raises(GgufkitError, match="--allow-requantize"):
        settings.open()
    with dataclasses.replace(settings, allow_requantize=True).open() as model:
        assert model.tensors


def test_settings_are_values(tmp_path: Path) -> None:
    settings = QuantizeSettings(source=tmp_path, output=tmp_path / "out.gguf")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.threads = 3  # type: ignore[misc]
    assert settings == QuantizeSettings(source=tmp_path, output=tmp_path / "out.gguf")
