"""What a converted file computes: llama.cpp on our F32 file against Hugging Face's float32 logits of the checkpoint."""

import llama_cpp.llama_cpp as library
import numpy as np
import pytest

from ggufkit.architectures import convert
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.runtime.engine import Engine
from tests.architectures import tiny
from tests.architectures.emit import write_gguf

LOGITS = np.load(tiny.DATA / "logits.npz")
# deepseek-r1 is deepseek-v3 in FP8, which transformers runs on a GPU alone; its tensors are the converter's
COMPUTED = [name for name in tiny.CASES if f"{name}/ids" in LOGITS]


@pytest.fixture(autouse=True)
def float32_cache(monkeypatch):
    """Keys and values as float32, as in the reference: without a scale (Gemma 4) attention is sharp enough to tell."""
    init = library.llama_init_from_model

    def with_float32(model, parameters):
        parameters.type_k = parameters.type_v = 0  # GGML_TYPE_F32
        return init(model, parameters)

    monkeypatch.setattr(library, "llama_init_from_model", with_float32)


@pytest.mark.parametrize("name", COMPUTED)
def test_logits_are_hugging_faces(name, tmp_path):
    ids, wanted, argmax = (LOGITS[f"{name}/{part}"] for part in ("ids", "logits", "argmax"))
    model = convert(Checkpoint.open(tiny.build(name, tmp_path)))
    path = write_gguf(tmp_path / "model.gguf", model.metadata, model.tensors)
    with Engine.open(path, n_ctx=64, threads=1, n_outputs=4, use_extra_bufts=False, flash_attn=False) as engine:
        mask = np.arange(len(ids)) >= len(ids) - 4
        engine.decode(ids, 0, logits=mask.astype(np.int8))
        got = engine.logits(4).copy()
    assert list(got.argmax(axis=1)) == list(argmax)
    error = np.linalg.norm(got[:, : wanted.shape[1]] - wanted) / np.linalg.norm(wanted)
    assert error < 2e-3
