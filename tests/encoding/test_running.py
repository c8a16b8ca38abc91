"""What llama.cpp runs is the source, or a copy that goes away however its use ends."""

import os
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ggufkit.architectures.source import open_source
from ggufkit.encoding.destination import copy_path
from ggufkit.encoding.running import quick_type, running_copy, running_path
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.unfinished import journal_path, partial_path
from ggufkit.runtime import machine
from ggufkit.runtime.machine import MachineMemory

SOURCE = Path(__file__).parents[2] / "models" / "stories260K"


def test_a_copy_is_made_of_a_folder_and_goes_away(tmp_path: Path) -> None:
    settings = QuantizeSettings(source=SOURCE, output=tmp_path / "out.gguf", threads=1, imatrix=tmp_path / "not there")
    copy = copy_path(settings.output, "check")
    for path in (copy, partial_path(copy), journal_path(copy)):
        path.write_bytes(b"a killed run's")
    with (
        open_source(SOURCE) as model,
        pytest.raises(KeyboardInterrupt),
        running_copy(settings, model, "BF16", "check") as path,
    ):
        assert path == running_path(settings, "check") == copy
        with closing(GgufFile.open(path)) as file:
            assert file.type_name == "BF16"
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_file_runs_itself(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    with open_source(SOURCE) as model:
        with running_copy(
            QuantizeSettings(source=SOURCE, output=tmp_path / "x.gguf", threads=1), model, "F32", "check"
        ) as path:
            source.write_bytes(path.read_bytes())
        settings = QuantizeSettings(source=source, output=tmp_path / "out.gguf")
        with running_copy(settings, model, "BF16", "check") as path:
            assert path == source
    assert os.listdir(tmp_path) == ["source.gguf"]


@pytest.mark.parametrize(("gib", "wanted"), [(64, "BF16"), (20, "Q8_0"), (10, "Q4_K_M"), (5, "Q2_K"), (1, "Q2_K")])
def test_the_quick_file_leaves_a_third_of_the_memory(gib: int, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = SimpleNamespace(n_weights=10_000_000_000)
    model: Any = SimpleNamespace(tensors=(tensor,))
    monkeypatch.setattr(machine, "memory", lambda: MachineMemory(gib << 30, gib << 30))
    assert quick_type(model) == wanted
