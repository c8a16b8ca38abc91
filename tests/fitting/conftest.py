"""What tests of fitting share: the shipped model as a file that llama.cpp runs."""

from pathlib import Path

import pytest

from tests.fitting import stories


@pytest.fixture(scope="session")
def stories_f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ggufkit.encoding.settings import QuantizeSettings
    from ggufkit.workflows.quantize import quantize

    path = tmp_path_factory.mktemp("stories") / "stories260K-F32.gguf"
    quantize(QuantizeSettings(source=stories.FOLDER, output=path, recipe="F32", threads=1))
    return path
