"""Chunks are whole and in order, and only their copies begin with BOS."""

from types import SimpleNamespace

import numpy as np
import pytest

from ggufkit.runtime.chunks import whole_chunks, with_bos

TOKENS = np.arange(11, dtype=np.int32)


@pytest.mark.parametrize(("most", "n"), [(None, 3), (2, 2), (9, 3), (0, 1)])
def test_whole_chunks_in_order(most: int | None, n: int) -> None:
    assert whole_chunks(TOKENS, 3, most).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]][:n]


@pytest.mark.parametrize("most", [None, 2])
def test_a_shorter_text_has_none(most: int | None) -> None:
    assert whole_chunks(TOKENS, 12, most).shape == (0, 12)


def test_only_the_copy_begins_with_bos() -> None:
    chunks = whole_chunks(TOKENS, 5)
    assert with_bos(chunks, SimpleNamespace(add_bos=True, bos=77)).tolist() == [[77, 1, 2, 3, 4], [77, 6, 7, 8, 9]]
    assert with_bos(chunks, SimpleNamespace(add_bos=False, bos=77)).tolist() == chunks.tolist()
    assert TOKENS.tolist() == list(range(11))
