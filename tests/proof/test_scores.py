"""Two models walked in step, on logits made up by hand: order, joining, worst positions, and what is not finite."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ggufkit.proof import scores
from ggufkit.proof.scores import LiveBase, Scored, Spots, iter_scores
from ggufkit.runtime.scoring import LogitsBlock, LogitsError
from quant.logits import SketchComparison, top_k

P = {1: 0.5, 2: 0.25, 0: 0.125, 3: 0.125}  # of a row, by token
ROW = np.log(np.array([P[i] for i in range(4)], dtype=np.float32))
CHUNKS = np.zeros((2, 8), dtype=np.int32)
ENGINES = {name: cast(Any, SimpleNamespace(path=Path(name))) for name in ("base.gguf", "cand.gguf")}


def block(chunk: int, *positions: int, rows: np.ndarray | None = None) -> LogitsBlock:
    logits = np.tile(ROW, (len(positions), 1)) if rows is None else rows.astype(np.float32)
    return LogitsBlock(chunk, np.array(positions, np.int32), logits, np.full(len(positions), 1, np.int32))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Any:
    """play(base, candidate): the blocks that the engines give."""

    def put(base: list[LogitsBlock], candidate: list[LogitsBlock]) -> None:
        given = {"base.gguf": base, "cand.gguf": candidate}

        def blocks(engine: Any, tokens: np.ndarray, *, n_ctx: int) -> Iterator[LogitsBlock]:
            assert (tokens.shape, n_ctx) == ((16,), 8)
            return iter(given[engine.path.name])

        monkeypatch.setattr(scores, "iter_logits", blocks)

    return put


def scored(order: list[int], spots: Spots | None = None) -> list[scores.ChunkScores]:
    base = LiveBase(ENGINES["base.gguf"], CHUNKS)
    return list(iter_scores(base, ENGINES["cand.gguf"], CHUNKS, np.array(order, np.int32), spots or Spots()))


def test_blocks_of_a_chunk_become_one_row_under_its_number_in_the_text(play: Any) -> None:
    uniform = np.zeros((1, 4))
    base = [block(0, 4, 5), block(0, 6), block(1, 4)]
    play(base, [block(0, 4, 5), block(0, 6, rows=uniform), block(1, 4)])
    spots = Spots()
    first, second = scored([7, 3], spots)
    assert (first.chunk, second.chunk) == (7, 3)
    kld = sum(p * np.log(p / 0.25) for p in P.values())
    assert first.tokens.kld == pytest.approx([0, 0, kld], abs=1e-6)
    assert first.tokens.nll_base == pytest.approx([np.log(2)] * 3, rel=1e-6)
    assert first.tokens.nll_cand == pytest.approx([np.log(2)] * 2 + [np.log(4)], rel=1e-6)
    assert first.tokens.dp == pytest.approx([0, 0, -0.25], abs=1e-6)
    assert np.array_equal(first.tokens.kld, first.tokens.kld_low)
    assert second.tokens.kld.shape == (1,)
    worst = spots.worst()[0]
    assert (worst.chunk, worst.position, worst.target) == (7, 6, 1)
    assert [one.token for one in worst.base] == [1, 2, 0, 3]
    assert [one.p for one in worst.base] == pytest.approx([0.5, 0.25, 0.125, 0.125])
    assert [one.p for one in worst.candidate] == pytest.approx([0.25] * 4)


def test_logits_that_are_not_finite_are_named_with_the_chunk_of_the_text(play: Any) -> None:
    bad = np.tile(ROW, (2, 1))
    bad[1, 2] = np.nan
    play([block(0, 4), block(1, 4, 5)], [block(0, 4), block(1, 4, 5, rows=bad)])
    with pytest.raises(LogitsError, match=r"cand.gguf: chunk 3 of the text: candidate logits: row 1 token 2 is nan"):
        scored([7, 3])


def test_the_worst_of_each_block_is_kept_and_no_more_than_asked_for() -> None:
    spots = Spots(n_keep=2)
    for chunk, klds in enumerate([[0.1, 0.5], [0.9, 0.8], [0.2, 0.3], [0.6, 0.0]]):
        kld = np.array(klds)
        one = block(chunk, 4, 5)
        spots.offer(one, chunk, Scored(SketchComparison(kld, kld, kld, kld, kld > 0, kld), top_k(one.logits[:1], 2)))
    assert [(spot.kld, spot.chunk, spot.position) for spot in spots.worst()] == [(0.9, 1, 4), (0.6, 3, 4)]
