"""`perplexity`: the interval takes chunks as independent, the text is named by its digest, notices come first."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import InputError
from ggufkit.formats.text import EVALUATION_TEXT, shipped_text
from ggufkit.progress import Progress
from ggufkit.workflows.perplexity import PerplexitySettings, perplexity, standard_error_of_means

PROSE = shipped_text(EVALUATION_TEXT)[:6000]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "prose.txt"
    path.write_text(PROSE)
    return path


def test_the_error_is_that_of_the_chunks_means() -> None:
    nll = np.array([[1.0, 3.0], [4.0, 4.0], [5.0, 7.0]])  # means 2, 4, 6: deviation 2
    assert standard_error_of_means(nll) == pytest.approx(2 / math.sqrt(3))
    assert math.isnan(standard_error_of_means(nll[:1]))


def test_a_text_is_scored_in_chunks(tiny: Callable[[str], Path], text: Path) -> None:
    seen: list[Progress] = []
    settings = PerplexitySettings(file=tiny("Q8_0"), text=text, n_ctx=64, chunks=3, threads=1)
    report = perplexity(settings, seen.append)
    assert (report.n_chunk, report.n_token, report.text) == (3, 3 * 31, "prose.txt")
    assert report.text_sha256 == hashlib.sha256(PROSE.encode()).hexdigest()
    assert report.ppl > 1 and report.ppl_error_chunk is not None and report.ppl_error_chunk > 0
    assert [round(p.done) for p in seen] == [1, 2, 3] and {(p.total, p.unit) for p in seen} == {(3, "chunks")}
    assert perplexity(settings).ppl == report.ppl


def test_one_chunk_has_no_spread_and_none_is_refused(tiny: Callable[[str], Path], text: Path) -> None:
    settings = PerplexitySettings(file=tiny("Q8_0"), text=text, n_ctx=64, chunks=1, threads=1)
    assert perplexity(settings).ppl_error_chunk is None
    text.write_text("too short")
    with pytest.raises(InputError, match="less than one chunk of 64"):
        perplexity(settings)
