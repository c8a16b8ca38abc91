"""Folders without weights: what config.json promises is what the weights hold."""

import json
from pathlib import Path

import pytest

from ggufkit.architectures import convert
from ggufkit.formats.checkpoint import Checkpoint
from tests.architectures import tiny


def config_only(name: str, root: Path, *, index: bool) -> Path:
    folder = tiny.build(name, root)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    if index:
        weight_map = dict.fromkeys(tiny.load_case(name)["source"], "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("name", tiny.CASES)
def test_a_config_and_an_index_say_what_the_weights_hold(name: str, tmp_path: Path) -> None:
    wanted = convert(Checkpoint.open(tiny.build(name, tmp_path / "whole")))
    model = convert(Checkpoint.of_config(config_only(name, tmp_path, index=True)))
    assert {t.name: t.shape for t in model.tensors} == {t.name: t.shape for t in wanted.tensors}
    assert {t.name for t in model.tensors if t.keep_f32} == {t.name for t in wanted.tensors if t.keep_f32}
    assert [t.name for t in model.tensors if t.dtype != "F32" and t.keep_stored] == [
        t.name for t in model.tensors if t.keep_stored
    ]
    assert model.hparams == wanted.hparams
