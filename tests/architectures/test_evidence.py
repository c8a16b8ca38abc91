"""Importance reaches every matrix that a product reads: stacked, shared, biased, one a head, linear attention."""

import pytest

from ggufkit.architectures.source import open_source
from ggufkit.fitting.merging import coverage_in
from ggufkit.formats.imatrix_file import read_imatrix
from ggufkit.recipes.quantizable import kept_reason
from ggufkit.workflows.calibrate import CalibrateSettings, calibrate
from tests.architectures import tiny

N_CTX = 128
MIXTURES = {"deepseek-v3": 8, "qwen3-next-80b-a3b-instruct": 4, "gpt-oss-120b": 4, "gemma-4-26b-a4b-it": 4}


CASES = [
    "deepseek-v3",
    "qwen3-next-80b-a3b-instruct",
    "qwen3.5-4b",
    "gpt-oss-120b",
    "gemma-4-26b-a4b-it",
    "gemma-4-e2b-it",
]


@pytest.mark.parametrize("name", CASES)
def test_every_matrix_of_the_layers_has_importance(name, tmp_path):
    folder, out = tiny.build(name, tmp_path), tmp_path / "importance.gguf"
    calibrate(CalibrateSettings(model=folder, output=out, n_ctx=N_CTX, n_tokens=2 * N_CTX, threads=1))
    entries = read_imatrix(out).entries
    with open_source(folder) as model:
        first_mtp = model.hparams.n_layer - model.hparams.n_mtp
        wanted = {t.name for t in model.tensors if t.name.startswith("blk.") and not kept_reason(t)}
        wanted |= {t.name for t in model.tensors if t.keep_stored}
        wanted -= {name for name in wanted if int(name.split(".")[1]) >= first_mtp}
        shapes = {t.name: t.shape for t in model.tensors}
    assert wanted - entries.keys() == set()
    for key in wanted:
        stack = shapes[key][0] if len(shapes[key]) == 3 else 1
        assert entries[key].sums.shape[0] == stack
        if stack > 1 and "_exps" not in key:  # a matrix a head: each sees every token
            assert set(entries[key].counts) == {2 * N_CTX}
    assert all(len(row.counts) == MIXTURES.get(name) for row in coverage_in(read_imatrix(out)).layers)
