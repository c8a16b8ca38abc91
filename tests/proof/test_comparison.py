"""Per-token numbers put together, by hand: rows of chunks, and a worst position in words."""

from typing import Any, cast

import numpy as np

from ggufkit.proof.comparison import ChunkRow, chunk_rows, readable
from ggufkit.proof.figures import TokenScores
from ggufkit.proof.scores import Alternative, ChunkScores, Spot
from quant.logits import SketchComparison


class Words:
    """A vocabulary whose token i is the text <i>; 7 is a control token, 8 half a character."""

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return b"\xc3" if token == 8 else (b"</s>" if special else b"") if token == 7 else b"<%d>" % token

    def detokenize(self, tokens: Any) -> str:
        return b"".join(self.piece(int(token)) for token in tokens).decode(errors="replace")


def test_a_chunks_row_holds_its_means_and_comes_in_the_texts_order() -> None:
    def scored(chunk: int, shift: float) -> ChunkScores:
        base = np.array([1.0, 3.0])
        kld, same = np.array([0.25, 0.75]) + shift, np.array([True, False])
        return ChunkScores(chunk, SketchComparison(base, base + 1 + shift, kld, kld / 2, same, base))

    rows = chunk_rows(TokenScores.of([scored(5, 1.0), scored(2, 0.0)]))
    assert rows == (ChunkRow(2, 2.0, 3.0, 0.5, 0.75, 0.5), ChunkRow(5, 2.0, 4.0, 1.5, 1.75, 0.5))


def test_a_position_in_words_ends_with_the_last_token_read() -> None:
    chunk = np.arange(100, 200, dtype=np.int32)
    chunk[58] = 7
    spot = Spot(1.5, 3, 60, 8, (Alternative(7, 0.75), Alternative(9, 0.125)), (Alternative(2, 0.5),))
    passage = readable(spot, chunk, cast(Any, Words()))
    assert passage.before == "".join(f"<{token}>" for token in range(113, 161) if token != 158)
    assert (passage.target, passage.kld, passage.chunk, passage.position) == ("�", 1.5, 3, 60)
    assert passage.base == (("</s>", 0.75), ("<9>", 0.125))
    assert passage.candidate == (("<2>", 0.5),)
    assert readable(spot._replace(position=1), chunk, cast(Any, Words())).before == "<100><101>"
