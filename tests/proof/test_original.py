"""What must agree before probabilities may be compared, on stand-ins for engine and baseline that hold just that."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gguf
import numpy as np
import pytest

from ggufkit.differences.structure import stored
from ggufkit.errors import InputError
from ggufkit.formats.model import KV, Hparams
from ggufkit.proof import original
from ggufkit.proof.original import TOKENS_KEY, StoredReference, check_same_vocabulary, cut_chunks

WORDS = KV(TOKENS_KEY, gguf.GGUFValueType.ARRAY, ["a", "b", "c"], gguf.GGUFValueType.STRING)
FACTS = {
    "file": "base.gguf",
    "nbytes": 1,
    "fingerprint": "",
    "arch": "",
    "name": "",
    "type": "",
    "n_weights": 1,
    "bpw": 1.0,
}
IDS = np.arange(20, dtype=np.int32)


def header(*words: str) -> Any:
    return SimpleNamespace(path=Path(f"{words[-1]}.gguf"), value=lambda key: words if key == TOKENS_KEY else None)


def engine(words: KV = WORDS, *, ids: np.ndarray = IDS, **settings: Any) -> Any:
    how = SimpleNamespace(**{"device": "cpu", "n_ubatch": 512, "use_extra_bufts": False, **settings})
    head = SimpleNamespace(metadata={TOKENS_KEY: words})
    return SimpleNamespace(path=Path("cand.gguf"), header=head, settings=how, tokenize=lambda content: ids)


def baseline(**changes: Any) -> StoredReference:
    digest = hashlib.sha256(IDS.astype("<i4").tobytes()).hexdigest()
    fields = {
        "model": FACTS, "n_vocab": 3, "n_ctx": 4, "n_chunk": 5, "settings": original.engine_settings(engine()),
        "structure": {"metadata": {TOKENS_KEY: stored(WORDS)}},
        "text": {"sha256": hashlib.sha256(b"text").hexdigest(), "name": "t.txt", "tokens_sha256": digest},
    }  # fmt: skip
    return StoredReference(cast(Any, SimpleNamespace(path=Path("b.gkb"), header=SimpleNamespace(**fields | changes))))


@pytest.fixture(autouse=True)
def three_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original, "read_hparams", lambda _: Hparams("llama", 1, 8, 2, 2, n_vocab=3))


def test_the_baselines_chunks_or_as_many_of_them_as_asked_for() -> None:
    for most, n in ((None, 5), (2, 2), (9, 5)):
        assert np.array_equal(baseline().chunks(engine(), "text", 4, most), IDS.reshape(5, 4)[:n])


@pytest.mark.parametrize(
    ("changes", "candidate", "asked", "message"),
    [
        ({"n_vocab": 4}, {}, {}, "b.gkb was made with another vocabulary: 4 tokens, now 3 tokens"),
        ({}, {"words": KV(TOKENS_KEY, WORDS.type, ["a", "b", "x"])}, {}, "another vocabulary: 3 items, SHA-256"),
        ({}, {}, {"content": "texts"}, r"another text \(SHA-256\): \w{64} \(t.txt\), now \w{64}"),
        ({}, {}, {"n_ctx": 8}, "another chunk length: 4, now 8"),
        ({}, {"device": "gpu"}, {}, "another device: cpu, now gpu"),
        ({}, {"n_ubatch": 64}, {}, "another micro-batch: 512, now 64"),
        ({}, {"use_extra_bufts": True}, {}, "another kernels: plain, now all"),
        ({"settings": {}}, {}, {}, "another engine: , now llama-cpp-python"),
        ({}, {}, {"most": 1}, "1 chunk is too few"),
        (
            {},
            {"ids": IDS[::-1]},
            {},
            "cand.gguf cuts the text into other tokens than base.gguf, which b.gkb was made from",
        ),
    ],
)
def test_a_baseline_is_refused_for_what_it_was_not_made_with(changes, candidate, asked, message: str) -> None:
    ask = {"content": "text", "n_ctx": 4, "most": None} | asked
    with pytest.raises(InputError, match=message):
        baseline(**changes).chunks(engine(**candidate), **ask)


def test_a_baseline_that_names_no_model_is_refused() -> None:
    assert baseline().facts.file == "base.gguf"
    with pytest.raises(InputError, match="b.gkb: the baseline does not name its model. Make it again"):
        baseline(model={"file": "base.gguf"})


def test_a_text_must_give_two_chunks() -> None:
    assert cut_chunks(IDS, 10, None).tolist() == [list(range(10)), list(range(10, 20))]
    assert cut_chunks(IDS, 4, 3).shape == (3, 4)
    for n_ctx, most, n in ((11, None, 1), (21, None, 0), (4, 1, 1)):
        with pytest.raises(InputError, match=f"20 tokens of text make {n} chunks of {n_ctx}, at least 2"):
            cut_chunks(IDS, n_ctx, most)


def test_the_token_that_two_vocabularies_differ_in_is_named() -> None:
    check_same_vocabulary(header("a", "b"), header("a", "b"))
    with pytest.raises(InputError, match="token 1 is 'x' in d.gguf and 'b' in c.gguf: not the same vocabulary"):
        check_same_vocabulary(header("a", "b", "c"), header("a", "x", "d"))
    with pytest.raises(InputError, match=r"b.gguf has 2 tokens, c.gguf has 3"):
        check_same_vocabulary(header("a", "b", "c"), header("a", "b"))
