"""Which chunks of the calibration text are read: spread over it or from its beginning, behind what was read before."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ggufkit.errors import InputError
from ggufkit.fitting.corpus import Corpus, corpus_chunks, text_chunks


def vocab(n: int, *, add_bos: bool = False) -> SimpleNamespace:
    return SimpleNamespace(tokenize=lambda _: np.arange(n, dtype=np.int32), add_bos=add_bos, bos=99)


def firsts(n: int, **changes: object) -> list[int]:
    """Numbers of the chunks that are read of a text of `n` tokens in chunks of 4."""
    corpus = Corpus(Path("model.gguf"), "text", n_ctx=4, **changes)  # type: ignore[arg-type]
    return [int(first) // 4 for first in corpus_chunks(vocab(n), corpus)[:, 0]]


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"n_tokens": 20}, [0, 2, 4, 6, 8]),
        ({"n_tokens": 12}, [0, 4, 7]),
        ({"n_tokens": 12, "spread": False}, [0, 1, 2]),
        ({"n_tokens": 12, "skip_tokens": 9, "spread": False}, [2, 3, 4]),
        ({"n_tokens": 3}, [0]),
    ],
)
def test_which_chunks_are_read(changes: dict[str, object], read: list[int]) -> None:
    assert firsts(42, **changes) == read


def test_each_chunk_begins_with_bos_where_the_model_wants_one() -> None:
    chunks = text_chunks(vocab(8, add_bos=True), "text", 4, n_tokens=None, spread=True)
    assert chunks.tolist() == [[99, 1, 2, 3], [99, 5, 6, 7]]


@pytest.mark.parametrize(("n", "skip", "said"), [(3, 0, "3 tokens of this model"), (10, 8, "2 tokens .* behind the 8")])
def test_a_text_without_a_whole_chunk_is_refused(n: int, skip: int, said: str) -> None:
    with pytest.raises(InputError, match=rf"the calibration text has {said}.*, at least 4 are needed"):
        firsts(n, skip_tokens=skip)
