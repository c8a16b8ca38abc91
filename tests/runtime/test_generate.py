"""The loop: the greedy text is the argmax's, stop strings never leak, a full context is said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.errors import EngineError, InputError, UsageError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.runtime.endings import StopMatcher, find_loop
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.generate import FinishReason, generate
from ggufkit.runtime.sampling import Sampling

GREEDY = Sampling(temperature=0)


def test_greedy_text_is_what_argmax_gives(engine):
    ids = engine.tokenize("Once upon a time")
    text = "".join(generate(engine, ids, sampling=GREEDY, max_tokens=24))
    for _ in range(24):
        engine.clear()
        engine.decode(ids, 0, logits=np.arange(len(ids)) == len(ids) - 1)
        ids = np.append(ids, np.int32(engine.logits(1)[0].argmax()))
    assert " Once upon a time" + text == engine.vocab.detokenize(ids)


def test_a_prompt_longer_than_a_batch_gives_the_same_text(stories, engine):
    ids = engine.tokenize("The dog ran to the park. " * 12)
    with Engine.open(stories, n_ctx=512, n_batch=32, threads=1) as small:
        a, b = ("".join(generate(e, ids, sampling=GREEDY, max_tokens=16)) for e in (engine, small))
    assert a == b


def test_stats_count_and_time_what_was_done(engine):
    ids = engine.tokenize("Once upon a time")
    generation = generate(engine, ids, sampling=Sampling(seed=3), max_tokens=12)
    assert generation.stats is None
    list(generation)
    stats = generation.stats
    assert (stats.n_prompt, stats.n_generated, stats.seed) == (len(ids), 12, 3)
    assert (stats.finish_reason, stats.context_full) == (FinishReason.LENGTH, False)
    assert 0 < stats.seconds_to_first < stats.seconds
    assert stats.prompt_per_second > 0
    assert stats.generated_per_second > 0
    assert stats.peak_rss > 10 << 20


def test_a_full_context_ends_with_length_and_says_why(stories):
    with Engine.open(stories, n_ctx=256, threads=1) as engine:
        ids = engine.tokenize("Once upon a time")
        bias = {token: float("-inf") for token in engine.vocab.eog}
        generation = generate(engine, ids, sampling=Sampling(seed=1, logit_bias=bias), max_tokens=5000)
        list(generation)
        assert generation.stats.n_generated == 256 - len(ids)
        assert generation.stats.finish_reason is FinishReason.LENGTH
        assert generation.stats.context_full


def test_the_end_token_ends_and_is_not_shown(engine):
    bias = {engine.vocab.eos: 1e9}
    generation = generate(engine, engine.tokenize("Hello"), sampling=Sampling(temperature=0, logit_bias=bias))
    assert list(generation) == []
    assert (generation.stats.finish_reason, generation.stats.n_generated) == (FinishReason.STOP, 1)


def test_a_stop_string_ends_the_text_before_itself(engine):
    ids = engine.tokenize("Once upon a time")
    whole = "".join(generate(engine, ids, sampling=GREEDY, max_tokens=40))
    stop = whole[30:37]
    generation = generate(engine, ids, sampling=GREEDY, max_tokens=40, stop=["never there", stop])
    assert "".join(generation) == whole[: whole.index(stop)]
    assert (generation.stats.finish_reason, generation.stats.stop_text) == (FinishReason.STOP, stop)


def test_closing_early_is_cancelled_and_the_engine_goes_on(engine):
    generation = generate(engine, engine.tokenize("Once"), sampling=GREEDY)
    stream = iter(generation)
    next(stream)
    stream.close()
    assert generation.stats.finish_reason is FinishReason.CANCELLED
    assert "".join(generate(engine, engine.tokenize("Once"), sampling=GREEDY, max_tokens=4))


def test_wrong_requests_are_refused(engine):
    ids = engine.tokenize("Once")
    with pytest.raises(UsageError, match="max_tokens is 0"):
        generate(engine, ids, max_tokens=0)
    with pytest.raises(UsageError, match="stop string is empty"):
        generate(engine, ids, stop=[""])
    with pytest.raises(InputError, match="no tokens"):
        generate(engine, ids[:0])
    with pytest.raises(InputError, match="512 tokens, the context 512"):
        generate(engine, np.ones(512, dtype=np.int32))


@given(st.lists(st.text("ab<|>", max_size=4)), st.text("ab<|>", min_size=1, max_size=4))
def test_one_stop_string_cuts_where_it_first_stands(pieces, stop):
    matcher, shown = StopMatcher([stop]), ""
    for piece in pieces:
        shown += matcher.push(piece)
        if matcher.found:
            break
    else:
        shown += matcher.finish()
    assert shown == "".join(pieces).split(stop)[0]


@given(st.lists(st.text("abc", max_size=3)), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4))
def test_no_stop_string_is_ever_shown(pieces, stops):
    matcher, shown = StopMatcher(stops), ""
    for piece in pieces:
        shown += matcher.push(piece)
        if matcher.found:
            break
    else:
        shown += matcher.finish()
    assert "".join(pieces).startswith(shown)
    assert not any(stop in shown for stop in stops)


def test_a_loop_is_found_by_its_shortest_period():
    assert find_loop([7] * 300) == 1
    assert find_loop(list(range(100)) + [1, 2, 3] * 100) == 3
    assert find_loop([1, 2, 3] * 80) == 0  # too short to be sure
    assert find_loop(list(range(400))) == 0
    assert find_loop([1, 2, 3] * 100 + [9]) == 0


@pytest.mark.parametrize("max_tokens", [None, 400])
def test_a_loop_ends_a_text_without_a_wanted_length(engine, max_tokens):
    bias = {t: float("-inf") for t in range(engine.vocab.n_vocab) if t not in (400, 401)}
    sampling = Sampling(temperature=0, logit_bias=bias)
    generation = generate(engine, engine.tokenize("Once"), sampling=sampling, max_tokens=max_tokens)
    list(generation)
    stats = generation.stats
    assert stats.loop > 0
    assert (stats.finish_reason, stats.context_full) == (FinishReason.LENGTH, False)
    assert (stats.n_generated == 400) is (max_tokens == 400)


def test_values_that_are_no_numbers_are_an_error(stories, tmp_path):
    spoilt = tmp_path / "nan.gguf"
    spoilt.write_bytes(stories.read_bytes())
    header = GgufFile.open(stories)
    header.close()
    tensor = next(t for t in header.tensors if t.name == "output_norm.weight")
    with spoilt.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(np.full(64, np.nan, dtype=np.float32).tobytes())
    with Engine.open(spoilt, n_ctx=64, threads=1) as engine, pytest.raises(EngineError, match=r"NaN logits"):
        list(generate(engine, engine.tokenize("Once"), max_tokens=4))
