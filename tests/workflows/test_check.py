"""`check`: the same file twice differs by nothing; coarse types cost; what would keep it from ending is said before."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufkit.encoding.destination import copy_path
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import GgufkitError
from ggufkit.formats.text import EVALUATION_TEXT, shipped_text
from ggufkit.progress import Progress
from ggufkit.workflows.check import check, require, runnable
from ggufkit.workflows.perplexity import PerplexitySettings, perplexity
from ggufkit.workflows.quantize import opened

MODEL = Path(__file__).parents[2] / "models" / "tiny-mixtral"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "prose.txt"
    path.write_text(shipped_text(EVALUATION_TEXT)[:8000])
    return path


def settings(source: Path, output: Path) -> QuantizeSettings:
    return QuantizeSettings(source=source, output=output, threads=1)


def test_a_file_against_itself_differs_by_nothing(tiny: Callable[[str], Path], text: Path) -> None:
    job = settings(tiny("Q8_0"), tiny("Q8_0"))
    with job.open() as model:
        found = check(job, model, text)
    assert (found.ln_ratio, found.ln_ratio_error, found.type_before) == (0.0, 0.0, "Q8_0")


def test_it_is_what_perplexity_says_of_both(tiny: Callable[[str], Path], text: Path) -> None:
    seen: list[Progress] = []
    job = settings(MODEL, tiny("Q2_K"))
    with job.open() as model:
        found = check(job, model, text, seen.append)
    after = perplexity(PerplexitySettings(file=tiny("Q2_K"), text=text, threads=1))
    before = perplexity(PerplexitySettings(file=tiny("BF16"), text=text, threads=1))
    assert (found.ppl_after, found.n_chunk, found.text) == (after.ppl, after.n_chunk, "prose.txt")
    assert found.ppl_before == pytest.approx(before.ppl, rel=1e-3)
    assert found.ln_ratio == pytest.approx(math.log(found.ppl_after / found.ppl_before)) and found.ln_ratio > 0
    assert [p.done for p in seen] == sorted(p.done for p in seen) and seen[-1].done == 100


def test_a_folder_is_converted_and_the_copy_goes_away(tmp_path: Path) -> None:
    job = settings(MODEL, tmp_path / "out.gguf")
    with job.open() as model, runnable(job, model) as (path, kind):
        assert path == copy_path(job.output, "check") and path.exists() and kind in ("BF16", "F16", "F32")
    assert not list(tmp_path.iterdir())


def test_a_text_that_is_not_there_is_said_before_any_work(tmp_path: Path) -> None:
    with opened(settings(MODEL, tmp_path / "out.gguf")) as job:
        with pytest.raises(GgufkitError, match=r"nowhere\.txt"):
            require(job, tmp_path / "nowhere.txt")
        require(job, None)
    assert not list(tmp_path.iterdir())
