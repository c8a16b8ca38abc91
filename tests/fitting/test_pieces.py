"""Pieces of a stream between workers: in order, as soon as they are there, checked, and of one run only."""

import threading
from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import OutputError
from ggufkit.fitting.sources import pieces as module
from ggufkit.fitting.sources.pieces import Pieces, WaitedError


@pytest.fixture
def pieces(tmp_path: Path) -> Pieces:
    (tmp_path / "token").write_text("secret")
    return Pieces(tmp_path, "secret", layer=3, n_chunk=4, n_ctx=5, n_embd=2)


def chunk(index: int) -> np.ndarray:
    return np.arange(10, dtype=np.float32).reshape(5, 2) + 100 * index


def test_chunks_come_in_order_as_they_are_written(pieces: Pieces) -> None:
    def write() -> None:
        for index in (1, 0, 3, 2, 2):
            pieces.write(index, chunk(index))

    writer = threading.Timer(0.1, write)
    writer.start()
    read = list(pieces.chunks())
    writer.join()
    assert [np.array_equal(x, chunk(index)) for index, x in enumerate(read)] == [True] * 4
    assert pieces.n_there == 4


def test_a_damaged_chunk_is_an_error(pieces: Pieces, tmp_path: Path) -> None:
    for index in range(4):
        pieces.write(index, chunk(index))
    path = tmp_path / "3" / "1.f32"
    raw = bytearray(path.read_bytes())
    raw[7] ^= 1
    path.write_bytes(raw)
    chunks = pieces.chunks()
    next(chunks)
    with pytest.raises(OutputError, match="1.f32 is damaged"):
        next(chunks)


def test_what_is_of_another_run_is_neither_read_nor_written(pieces: Pieces) -> None:
    other = pieces._replace(secret="of an earlier run")
    with pytest.raises(OutputError, match="the run that this was for is over"):
        other.write(0, chunk(0))
    with pytest.raises(OutputError, match="the run that this was for is over"):
        next(other.chunks())
    assert pieces.n_there == 0


def test_patience_ends(pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    with pytest.raises(WaitedError):
        next(pieces.chunks())
