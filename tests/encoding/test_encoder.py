"""The plain encoder states what its bytes depend on, and encodes each expert with its own importance."""

from pathlib import Path

import numpy as np
import pytest

import quant
from ggufkit.architectures.source import open_source
from ggufkit.encoding.encoder import PlainEncoder, plain_encoder
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import ImatrixError
from ggufkit.recipes.build import make_plan

ROOT = Path(__file__).parents[2]
MODEL, IMATRIX = ROOT / "models" / "tiny-mixtral", ROOT / "tests" / "data" / "tiny-mixtral.imatrix.gguf"


def encoder(**changes: object) -> PlainEncoder:
    settings = QuantizeSettings(source=MODEL, output=Path("out.gguf"), **changes)  # type: ignore[arg-type]
    with open_source(MODEL) as model:
        return plain_encoder(settings, model)


def test_identity_changes_with_importance_and_encoder_alone(tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.gguf"
    moved.write_bytes(IMATRIX.read_bytes())
    made = {encoder().identity, encoder(imatrix=IMATRIX).identity, encoder(encoder=quant.Encoder.GGML).identity}
    assert len(made) == 3
    assert encoder(imatrix=moved).identity == encoder(imatrix=IMATRIX).identity


def test_metadata_names_the_importance_without_its_folder() -> None:
    rows = {kv.key: kv.value for kv in encoder(imatrix=IMATRIX).metadata}
    assert rows["quantize.imatrix.file"] == IMATRIX.name
    assert len(rows["ggufkit.imatrix.sha256"]) == 64
    assert encoder().metadata == ()


@pytest.mark.parametrize("name", list(quant.Encoder))
def test_each_expert_is_encoded_with_its_own_importance(name: quant.Encoder) -> None:
    made = encoder(encoder=name, imatrix=IMATRIX)
    with open_source(MODEL) as model:
        planned = next(t for t in make_plan(model, "Q4_K_S").tensors if t.name == "blk.1.ffn_up_exps.weight")
        w = planned.tensor.rows(0, 0, 4)
    blocks = [made(planned, expert, w) for expert in range(3)]
    assert made.imatrix is not None
    exact = name is quant.Encoder.GGML
    of = made.imatrix.importance_of if exact else made.imatrix.shrunk_importance_of
    for expert, one in enumerate(blocks):
        wanted = quant.quantize(w, planned.qtype, importance=of(planned.name, expert), encoder=name)
        assert np.array_equal(one, wanted)
    assert not np.array_equal(blocks[0], blocks[1])


def test_importance_that_is_not_there_is_named() -> None:
    with pytest.raises(ImatrixError, match=r"nowhere.gguf does not exist. Pass the importance file"):
        encoder(imatrix=Path("nowhere.gguf"))
