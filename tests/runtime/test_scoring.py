"""Scores: llama-perplexity's own figures, and what must hold without an oracle."""

import json
import math

import numpy as np
import pytest

from ggufkit.errors import InputError, UsageError
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


def test_large_vocabularies_get_smaller_batches(stories):
    with scoring.open_for_scoring(stories, n_ctx=512, n_vocab=152_000, threads=1) as engine:
        assert engine.settings.n_seq == 1
        assert engine.settings.n_batch * 152_000 * 4 <= scoring.MAX_LOGITS_NBYTES * 2
    with scoring.open_for_scoring(stories, n_ctx=512, threads=1) as engine:
        assert engine.settings.n_seq == 4


def test_texts_too_short_and_chunks_too_long_are_refused(stories, engine, tokens):
    with pytest.raises(InputError, match=r"63 tokens, less than one chunk of 64"):
        scoring.perplexity(engine, tokens[:63], n_ctx=64)
    with pytest.raises(UsageError, match="at least 8 tokens, got 4"):
        scoring.open_for_scoring(stories, n_ctx=4)
    with pytest.raises(UsageError, match="holds 512 tokens a sequence, chunks have 1024"):
        scoring.perplexity(engine, tokens, n_ctx=1024, n_chunk=1)
