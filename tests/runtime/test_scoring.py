"""Scores: llama-perplexity's own figures, and what must hold without an oracle."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from ggufkit.errors import InputError, UsageError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.text import shipped_text
from ggufkit.runtime import scoring
from ggufkit.runtime.engine import Engine
from quant import logits

from .conftest import ROOT, make

FIGURES = json.loads((ROOT / "tests" / "data" / "tiny-mixtral" / "figures.json").read_text())["files"]


@pytest.mark.parametrize("recipe", ["BF16", "F16", "Q4_K_M"])
def test_perplexity_is_llama_perplexity_s(files, tiny_bf16, recipe):
    name = recipe if recipe in FIGURES else recipe.lower()
    path = tiny_bf16 if recipe == "BF16" else make(tiny_bf16, files / f"tiny-{recipe}.gguf", recipe)
    with scoring.open_for_scoring(path, threads=1) as engine:
        got = scoring.perplexity(engine, engine.tokenize(shipped_text("evaluation-prose.txt")), n_chunk=60)
    wanted = FIGURES[name]["ppl"]
    ppl, error = (wanted, None) if isinstance(wanted, float) else wanted
    assert got.ppl == pytest.approx(ppl, rel=5e-4)
    assert (got.n_chunk, got.n_token) == (60, 60 * 255)
    if error is not None:
        assert got.ppl_error == pytest.approx(error, rel=5e-3)


@pytest.fixture(scope="module")
def tokens(engine):
    return engine.tokenize(
        "Once upon a time there was a little dog who liked to play in the park with his friends. " * 40
    )


@pytest.mark.parametrize(("n_batch", "n_seq"), [(256, 1), (128, 1), (64, 1), (100, 1), (512, 2), (1024, 4)])
def test_batches_do_not_change_the_figure(stories, tokens, n_batch, n_seq):
    options = {"n_ctx": 256, "n_batch": n_batch, "n_seq": n_seq, "n_outputs": n_batch, "threads": 1}
    with Engine.open(stories, **options, flash_attn=False) as engine:
        got = scoring.perplexity(engine, tokens, n_ctx=256)
    with scoring.open_for_scoring(stories, n_ctx=256, threads=1) as engine:
        wanted = scoring.perplexity(engine, tokens, n_ctx=256)
    assert got.n_chunk == len(tokens) // 256
    assert got.ppl == pytest.approx(wanted.ppl, rel=2e-3)
    assert np.abs(got.nll - wanted.nll).max() < 0.05


def test_blocks_name_their_place_and_what_follows(stories, tokens):
    with scoring.open_for_scoring(stories, n_ctx=64, threads=1) as engine:
        for number, block in enumerate(scoring.iter_logits(engine, tokens, n_ctx=64, n_chunk=3)):
            assert block.chunk == number
            assert block.positions.tolist() == list(range(32, 63))
            assert block.targets.tolist() == tokens[number * 64 + 33 : number * 64 + 64].tolist()
            assert block.logits.shape == (31, engine.vocab.n_vocab)


def test_a_chunk_begins_with_bos_and_sees_nothing_before(stories, tokens):
    """The scores of a chunk are those of the chunk alone after BOS."""
    with scoring.open_for_scoring(stories, n_ctx=64, threads=1) as engine:
        third = scoring.perplexity(engine, tokens, n_ctx=64, n_chunk=3).nll[2]
        ids = tokens[128:192].copy()
        ids[0] = engine.vocab.bos
        engine.clear()
        engine.decode(ids, 0, logits=1)
        alone = logits.nll(engine.logits(64)[32:63], ids[33:])
    assert np.abs(third - alone).max() < 0.02


def test_uniform_likelihoods_give_the_vocabulary():
    result = scoring.summarize(np.full((4, 31), math.log(512)), 64, 1.0)
    assert result.ppl == pytest.approx(512)
    assert result.ppl_error == pytest.approx(0, abs=1e-4)
    assert result.tokens_per_second == 256


@pytest.mark.parametrize("n_ctx", [8, 9, 128, 256, 257, 511, 512, 513, 4096])
def test_a_decode_gives_the_rows_that_are_scored(n_ctx):
    """Of short chunks several, of long ones a part: N_STEP tokens at most, and a row for each that is scored."""
    shape = scoring.decoding(n_ctx)
    assert shape.n_batch == shape.n_ubatch <= scoring.N_STEP < 2 * shape.n_batch + n_ctx % 2
    columns = np.arange(n_ctx)
    for start in range(0, n_ctx, shape.n_batch):
        n_scored = np.count_nonzero(columns[start : start + shape.n_batch] >= n_ctx // 2)
        assert shape.n_seq * n_scored <= shape.n_outputs


def test_smaller_steps_give_the_same_logits(stories, tokens, monkeypatch):
    """llama-perplexity decodes four chunks at once."""

    def run():
        with scoring.open_for_scoring(stories, n_ctx=128, threads=1) as engine:
            return scoring.perplexity(engine, tokens, n_ctx=128).nll

    steps = run()
    monkeypatch.setattr(scoring, "N_STEP", 512)
    np.testing.assert_allclose(steps, run(), atol=2e-3)


def test_threads_do_not_change_the_scores(stories, tokens):
    found = []
    for threads in (1, 3):
        with scoring.open_for_scoring(stories, n_ctx=64, threads=threads) as engine:
            found.append(scoring.perplexity(engine, tokens, n_ctx=64).nll)
    assert (found[0] == found[1]).all()


def test_perplexity_works_without_numba(stories, tmp_path):
    """It takes half a second to load, and a hundred megabytes."""
    (tmp_path / "text.txt").write_text("Once upon a time there was a little dog. " * 40)
    words = ["perplexity", str(stories), "--text", str(tmp_path / "text.txt"), "--ctx", "64", "--threads", "1"]
    code = "import sys; from ggufkit.cli import main\ntry: main(sys.argv[1:])\nfinally: print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False", done.stdout


def test_logits_that_are_no_numbers_name_the_file_and_the_chunk(stories, tmp_path):
    from ggufkit.workflows.baseline import BaselineSettings, make_baseline
    from ggufkit.workflows.perplexity import PerplexitySettings, perplexity

    spoilt = tmp_path / "nan.gguf"
    spoilt.write_bytes(stories.read_bytes())
    header = GgufFile.open(stories)
    header.close()
    with spoilt.open("r+b") as file:
        file.seek(next(tensor.offset for tensor in header.tensors if tensor.name == "output_norm.weight"))
        file.write(np.full(64, np.nan, dtype=np.float32).tobytes())
    for run in (
        lambda: perplexity(PerplexitySettings(file=spoilt, n_ctx=64, chunks=2, threads=1)),
        lambda: make_baseline(BaselineSettings(model=spoilt, output=tmp_path / "out", n_ctx=64, chunks=2, threads=1)),
    ):
        with pytest.raises(scoring.LogitsError, match=r"nan.gguf: chunk 0 of the text: .* is nan. .* `ggufkit diff`"):
            run()
    assert not (tmp_path / "out").exists()


def test_texts_too_short_and_chunks_too_long_are_refused(stories, engine, tokens):
    with pytest.raises(InputError, match=r"63 tokens, less than one chunk of 64"):
        scoring.perplexity(engine, tokens[:63], n_ctx=64)
    with pytest.raises(UsageError, match="at least 8 tokens, got 4"):
        scoring.open_for_scoring(stories, n_ctx=4)
    with pytest.raises(UsageError, match="holds 512 tokens a sequence, chunks have 1024"):
        scoring.perplexity(engine, tokens, n_ctx=1024, n_chunk=1)
