"""The sampler chain: what is in it, and what it draws."""

import numpy as np
import pytest

from ggufkit.errors import EngineError, UsageError
from ggufkit.runtime.generate import generate
from ggufkit.runtime.sampling import Sampler, Sampling
from ggufkit.runtime.sequence import Sequence


def prefill(engine, ids):
    engine.clear()
    Sequence(engine).prefill(ids)


def _names(sampler):
    lib, chain = sampler._lib, sampler.chain
    n = lib.llama_sampler_chain_n(chain)
    return [lib.llama_sampler_name(lib.llama_sampler_chain_get(chain, i)).decode() for i in range(n)]


def _text(engine, sampling, n=20):
    return "".join(generate(engine, engine.tokenize("One day"), sampling=sampling, max_tokens=n))


def test_the_default_chain_is_llama_cpp_s(engine):
    with Sampler(engine, Sampling()) as sampler:
        assert _names(sampler) == ["top-k", "top-p", "min-p", "temp", "dist"]


def test_everything_switched_on_stands_in_order(engine):
    everything = Sampling(repeat_penalty=1.1, dry_multiplier=0.5, typical_p=0.9, logit_bias={3: 1.0})
    with Sampler(engine, everything) as sampler:
        assert _names(sampler) == [
            "logit-bias", "penalties", "dry", "top-k", "typical", "top-p", "min-p", "temp", "dist",
        ]  # fmt: skip


def test_temperature_0_takes_the_largest_logit(engine):
    ids = engine.tokenize("Once upon a")
    prefill(engine, ids)
    best = int(engine.logits(1)[0].argmax())
    with Sampler(engine, Sampling(temperature=0)) as sampler:
        assert engine.lib.llama_sampler_sample(sampler.chain, engine.handle, -1) == sampler.sample() == best


@pytest.mark.parametrize("n", [1, 3])
def test_the_likeliest_token_is_llama_cpp_s_in_every_row_and_among_equals(engine, n):
    ids = engine.tokenize("Once upon a time")[:n]
    engine.clear()
    engine.decode(ids, 0, logits=np.arange(n) == n - 1)
    with Sampler(engine, Sampling(temperature=0)) as sampler:
        for row in (-1, n - 1):
            values = engine.logits(1)[0]
            values[[7, 5]] = values.max() + 1  # written into llama.cpp's own row
            assert engine.lib.llama_sampler_sample(sampler.chain, engine.handle, row) == sampler.sample(row) == 5
            values[9] = np.nan
            with pytest.raises(EngineError, match="NaN logits"):
                sampler.sample(row)
            values[9] = 0
    with pytest.raises(EngineError, match="does not have row 500 of logits"):
        engine.likeliest(500)


def test_a_seed_gives_the_same_text_again_and_none_another(engine):
    assert _text(engine, Sampling(seed=7)) == _text(engine, Sampling(seed=7))
    assert len({_text(engine, Sampling(temperature=1.5)) for _ in range(4)}) > 1


def test_draws_follow_the_probabilities(engine):
    prefill(engine, engine.tokenize("Once upon a time, there"))
    row = engine.logits(1)[0].astype(np.float64)
    p = np.exp(row - row.max())
    p /= p.sum()
    plain = Sampling(seed=1, temperature=1, top_k=0, top_p=1, min_p=0)
    with Sampler(engine, plain) as sampler:
        drawn = [engine.lib.llama_sampler_sample(sampler.chain, engine.handle, -1) for _ in range(2000)]
    best = int(p.argmax())
    assert drawn.count(best) / 2000 == pytest.approx(p[best], abs=4 * np.sqrt(p[best] * (1 - p[best]) / 2000))


def test_a_bias_forbids_and_forces(engine):
    greedy = _text(engine, Sampling(temperature=0), 1)
    first = int(engine.tokenize("One day" + greedy, add_special=False)[-1])
    prefill(engine, engine.tokenize("One day"))
    best = int(engine.logits(1)[0].argmax())
    assert _text(engine, Sampling(temperature=0, logit_bias={best: float("-inf")}), 1) != greedy
    assert _text(engine, Sampling(temperature=0, logit_bias={first: 1e6, best: -1e6, 100: 1e9}), 1) == (
        engine.vocab.piece(100).decode()
    )


def test_a_repeat_penalty_changes_what_is_drawn(engine):
    plain, penalized = (
        _text(engine, Sampling(temperature=0, repeat_penalty=value, penalty_last_n=256), 120) for value in (1.0, 1.6)
    )
    assert plain != penalized


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_p": 1.5}, {"min_p": float("nan")}, {"repeat_penalty": 0}, {"seed": 2**32 - 1}]
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_a_bias_of_an_unknown_token_is_refused(engine):
    with pytest.raises(UsageError, match="token 512; the vocabulary has 512"):
        Sampler(engine, Sampling(logit_bias={512: 1.0}))
    with pytest.raises(UsageError, match="NaN"):
        Sampling(logit_bias={1: float("nan")})
