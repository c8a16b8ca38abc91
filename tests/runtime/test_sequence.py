"""What a sequence holds is not computed again; what fails takes back no more than it added."""

import numpy as np
import pytest

from ggufkit.errors import EngineError
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.generate import generate
from ggufkit.runtime.sampling import Sampler, Sampling
from ggufkit.runtime.sequence import Sequence

GREEDY = Sampling(temperature=0)


@pytest.fixture
def several(stories):
    """Three sequences of 128 tokens, 32 computed at once."""
    with Engine.open(stories, n_ctx=128, n_batch=64, n_ubatch=32, n_seq=3, n_outputs=8, threads=1) as opened:
        yield opened


def _last_row(engine, ids):
    """Logits behind `ids` from an empty memory."""
    engine.clear()
    engine.decode(ids, 0, logits=np.arange(len(ids)) == len(ids) - 1)
    return engine.logits(1)[0].copy()


def test_a_growing_prompt_computes_what_is_new(engine):
    engine.clear()
    sequence = Sequence(engine)
    first = engine.tokenize("Once upon a time there was a dog.")
    more = np.concatenate((first, engine.tokenize("The dog ran.", add_special=False)))
    assert sequence.prefill(first) == 0
    assert sequence.prefill(more) == len(first)
    grown = engine.logits(1)[0].copy()
    np.testing.assert_allclose(grown, _last_row(engine, more), atol=2e-3)


def test_the_last_token_is_computed_even_where_all_are_held(engine):
    engine.clear()
    sequence = Sequence(engine)
    ids = engine.tokenize("Once upon a time")
    sequence.prefill(ids)
    assert sequence.prefill(ids) == len(ids) - 1
    assert sequence.held == ids.tolist()


def test_what_differs_is_forgotten_from_there_on(engine):
    engine.clear()
    sequence = Sequence(engine)
    ids = engine.tokenize("Once upon a time there was a dog.")
    sequence.prefill(ids)
    other = ids.copy()
    other[4:] = ids[3]
    assert sequence.prefill(other) == 4
    row = engine.logits(1)[0].copy()
    np.testing.assert_allclose(row, _last_row(engine, other), atol=2e-3)


def test_a_cleared_engine_holds_nothing(engine):
    engine.clear()
    sequence = Sequence(engine)
    ids = engine.tokenize("Once upon a time")
    sequence.prefill(ids)
    engine.clear()
    assert sequence.prefill(ids) == 0


def test_an_answer_is_kept_for_the_next_prompt(engine):
    engine.clear()
    sequence = Sequence(engine)
    ids = engine.tokenize("Once upon a time")
    generation = generate(engine, ids, sampling=GREEDY, max_tokens=10, sequence=sequence)
    "".join(generation)
    assert (generation.stats.n_kept, generation.stats.n_computed) == (0, len(ids))
    assert len(sequence.held) == len(ids) + 9  # the last one was drawn, not computed
    prompt = np.array([*sequence.held, *ids[1:]], dtype=np.int32)
    generation = generate(engine, prompt, sampling=GREEDY, max_tokens=4, sequence=sequence)
    with_it = "".join(generation)
    assert (generation.stats.n_kept, generation.stats.n_computed) == (len(ids) + 9, len(ids) - 1)
    assert with_it == "".join(generate(engine, prompt, sampling=GREEDY, max_tokens=4))


def test_sequences_beside_each_other_give_what_each_gives_alone(several):
    texts = ["Once upon a time", "The dog ran to the", "One day, Lily"]
    alone = ["".join(generate(several, several.tokenize(t), sampling=GREEDY, max_tokens=12)) for t in texts]
    several.clear()
    sequences = [Sequence(several, n) for n in range(3)]
    for sequence, text in zip(sequences, texts, strict=True):
        sequence.prefill(several.tokenize(text))
    again = [
        "".join(generate(several, several.tokenize(t), sampling=GREEDY, max_tokens=12, sequence=s))
        for s, t in zip(sequences, texts, strict=True)
    ]
    assert again == alone


def test_sampling_takes_the_row_it_is_given(several):
    ids = several.tokenize("Once upon a time there was")
    several.clear()
    several.decode(ids, 0, logits=1)
    rows = several.logits(len(ids))
    with Sampler(several, GREEDY) as sampler:
        assert [sampler.sample(i) for i in range(len(ids))] == rows.argmax(axis=1).tolist()


def test_a_failed_decode_leaves_other_sequences_and_earlier_tokens(several, monkeypatch):
    ids = several.tokenize("Once upon a time there was a dog.")
    several.clear()
    for number in (0, 1):
        several.decode(ids, 0, seq=number)
    real = several.lib.llama_decode
    monkeypatch.setattr(several.lib, "llama_decode", lambda ctx, batch: real(ctx, batch) or -3)
    with pytest.raises(EngineError, match="failed with code -3"):
        several.decode(ids, len(ids), seq=1)
    monkeypatch.undo()
    memory, last = several.lib.llama_get_memory(several.handle), several.lib.llama_memory_seq_pos_max
    assert [last(memory, number) for number in (0, 1)] == [len(ids) - 1, len(ids) - 1]


def test_an_interrupted_prompt_goes_on_where_it_was(several):
    ids = np.resize(several.tokenize("The dog ran to the park. "), 100)
    several.clear()
    sequence = Sequence(several, 2)

    def interrupt(done: int, total: int) -> None:
        assert total == 100
        if done == 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sequence.prefill(ids, interrupt)
    assert len(sequence.held) == 64
    assert sequence.prefill(ids) == 64
    row = several.logits(1)[0].copy()
    several.clear()
    Sequence(several).prefill(ids)
    np.testing.assert_allclose(row, several.logits(1)[0], atol=2e-3)


def test_two_engines_keep_their_lines_apart(stories):
    sizes = []
    with Engine.open(stories, n_ctx=256, threads=1) as one, Engine.open(stories, n_ctx=512, threads=1) as other:
        for engine in (one, other):
            sizes.append([line.split()[-2] for _, line in engine.log.lines if "KV buffer size" in line])
    assert [len(lines) for lines in sizes] == [1, 1]
    assert float(sizes[0][0]) < float(sizes[1][0])
