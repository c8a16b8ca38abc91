"""What the running model says of other weights is what a file with those weights says."""

import shutil
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufkit.architectures.source import open_source
from ggufkit.errors import InputError
from ggufkit.fitting.corpus import Corpus, text_chunks
from ggufkit.fitting.prober import Prober, Tried
from ggufkit.formats.text import CALIBRATION_TEXT, shipped_text
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.loading import Device
from tests.conftest import TINY_MIXTRAL

N_CHUNK, N_CTX, NAME = 8, 64, "blk.2.ffn_up.weight"
TEXT = shipped_text(CALIBRATION_TEXT)[:20000]


def corpus(model: Path, text: str = TEXT) -> Corpus:
    return Corpus(model, text, n_ctx=N_CTX, threads=1, device=Device.CPU)


def log_probabilities(model: Path) -> np.ndarray:
    """(n_chunk, n_scored, n_vocab) of the scored half of each chunk, each chunk run by itself."""
    out = []
    with Engine.open(model, n_ctx=N_CTX, n_batch=N_CTX, n_outputs=N_CTX, threads=1, device=Device.CPU) as engine:
        for chunk in text_chunks(engine.vocab, TEXT, N_CTX, n_tokens=N_CHUNK * N_CTX, spread=True):
            engine.clear()
            engine.decode(chunk, 0, logits=1)
            x = engine.logits(N_CTX)[N_CTX // 2 : -1].astype(np.float64)
            out.append(
                x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)
            )
    return np.array(out)


def test_the_divergence_is_that_of_a_file_with_the_other_weights(stories_f32: Path, tmp_path: Path) -> None:
    other = shutil.copy(stories_f32, tmp_path / "other.gguf")
    data = next(t.data for t in gguf.GGUFReader(other, "r+").tensors if t.name == NAME)
    own = data.copy()
    data[:] = np.round(own * 4) / 4
    data.flush()
    base, now = log_probabilities(stories_f32), log_probabilities(other)
    by_chunk = (np.exp(base) * (base - now)).sum(-1).mean(-1)
    with closing(Prober(corpus(stories_f32), N_CHUNK)) as prober:
        mean, error = prober.kld({NAME: [np.array(data) - own]})
        assert prober.kld({}) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert by_chunk.mean() > 1e-4
    assert mean == pytest.approx(by_chunk.mean(), rel=1e-2)
    assert error == pytest.approx(by_chunk.std(ddof=1) / np.sqrt(N_CHUNK), rel=5e-2)


def test_what_was_tried_is_the_stored_rows_minus_the_experts_own() -> None:
    with open_source(TINY_MIXTRAL) as model:
        tensor = next(t for t in model.tensors if t.name == "blk.1.ffn_up_exps.weight")
        tried, kind = Tried(tensor, "Q4_0"), gguf.GGMLQuantizationType.Q4_0
        own = [tensor.rows(i, 0, tensor.n_rows) for i in range(tensor.n_expert)]
        tried.blocks = [gguf.quantize(rows, kind) for rows in own]
        assert tensor.n_expert > 1
        for i, rows in enumerate(own):
            assert np.array_equal(tried[i], gguf.dequantize(tried.blocks[i], kind) - rows) and tried[i].any()


def test_a_text_of_three_chunks_is_too_short(stories_f32: Path) -> None:
    with pytest.raises(InputError, match=r"has 3 chunks of 64 tokens, choosing types needs at least 4"):
        Prober(corpus(stories_f32, "Once upon a time there was a girl. " * 22), N_CHUNK)
