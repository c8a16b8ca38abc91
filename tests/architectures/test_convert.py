"""The shipped models against what llama.cpp's own converter makes of them."""

import json
from pathlib import Path

import pytest

from ggufkit.architectures import convert
from ggufkit.formats.checkpoint import Checkpoint
from tests.architectures.emit import tensor_facts

ROOT = Path(__file__).parents[2]
PARITY = ROOT / "tests" / "data" / "parity"


def test_tiny_mixtral_has_the_tensors_of_the_reference_converter():
    reference = json.loads((PARITY / "tiny-mixtral.json").read_text())
    model = convert(Checkpoint.open(ROOT / "models" / "tiny-mixtral"))
    ours = {name: [facts["type"], facts["sha256"]] for name, facts in tensor_facts(model, "bf16").items()}
    assert ours == reference
    assert list(ours) == list(reference)


@pytest.mark.parametrize("folder", ["tiny-mixtral", "stories260K"])
def test_nothing_of_a_shipped_model_is_dropped(folder):
    assert not convert(Checkpoint.open(ROOT / "models" / folder)).dropped
