"""Baselines of the shipped model: near the exact figures, and refused for everything they were not made for."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufkit.errors import InputError, OutputError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.workflows.baseline import BaselineSettings, make_baseline
from ggufkit.workflows.compare import CompareSettings, compare
from tests.workflows.faults import rewrite

Tiny = Callable[[str], Path]
N_CHUNK = 12


@pytest.fixture(scope="module")
def baseline(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("baseline") / "tiny.gkb"
    make_baseline(BaselineSettings(model=tiny("BF16"), output=path, chunks=N_CHUNK, threads=1))
    return path


def test_figures_from_a_baseline_are_near_the_exact_ones(tiny: Tiny, baseline: Path) -> None:
    exact = compare(CompareSettings(base=tiny("BF16"), candidate=tiny("Q4_K_M"), chunks=N_CHUNK, threads=1))
    got = compare(CompareSettings(base=baseline, candidate=tiny("Q4_K_M"), threads=1))
    assert got.base == exact.base
    assert got.text == exact.text
    for name in ("ppl", "ppl_base", "ln_ppl_ratio", "dp_rms"):
        assert got.figures[name].value == pytest.approx(exact.figures[name].value, rel=1e-5), name
    assert got.figures["same_top"].value == exact.figures["same_top"].value
    assert got.figures["kld_mean"].value == pytest.approx(exact.figures["kld_mean"].value, rel=0.05)
    # of 3,060 tokens, with 2 draws each: noise of the draws widens the tail
    assert got.figures["kld_p99"].value == pytest.approx(exact.figures["kld_p99"].value, rel=0.3)


def test_it_is_a_fortieth_of_llama_cpps_and_the_same_every_time(tiny: Tiny, baseline: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.gkb"
    report = make_baseline(BaselineSettings(model=tiny("BF16"), output=again, chunks=N_CHUNK, threads=2))
    assert again.read_bytes() == baseline.read_bytes()
    assert report.nbytes == again.stat().st_size
    # the header, 3 KiB, is of the model alone; it does not grow with the text
    assert report.nbytes - 4096 < report.llama_nbytes / 40
    with pytest.raises(OutputError, match="exists. Replace it with --force"):
        make_baseline(BaselineSettings(model=tiny("BF16"), output=again, chunks=N_CHUNK))


def test_it_is_refused_for_another_text_or_setting(tiny: Tiny, baseline: Path, tmp_path: Path) -> None:
    settings = CompareSettings(base=baseline, candidate=tiny("Q6_K"), threads=1)
    text = tmp_path / "other.txt"
    text.write_text("It was a bright cold day in April. " * 200)
    with pytest.raises(InputError, match=r"another text \(SHA-256\): \w+ \(evaluation-prose.txt\), now \w+"):
        compare(dataclasses.replace(settings, text=text))
    with pytest.raises(InputError, match="1 chunk is too few"):
        compare(dataclasses.replace(settings, chunks=1))
    with pytest.raises(InputError, match="another chunk length: 512, now 256"):
        compare(dataclasses.replace(settings, n_ctx=256))


def test_it_is_refused_for_another_vocabulary_and_engine(
    tiny: Tiny, baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ggufkit.encoding.settings import QuantizeSettings
    from ggufkit.proof import original
    from ggufkit.workflows.quantize import quantize

    other = tmp_path / "stories.gguf"
    quantize(QuantizeSettings(source=Path(__file__).parents[2] / "models" / "stories260K", output=other, recipe="F16"))
    with pytest.raises(InputError, match="another vocabulary: 1024 tokens, now 512 tokens"):
        compare(CompareSettings(base=baseline, candidate=other))
    tokens = list(GgufFile.open(tiny("Q6_K")).value("tokenizer.ggml.tokens"))
    renamed = rewrite(
        tiny("Q6_K"), tmp_path / "r.gguf", metadata={"tokenizer.ggml.tokens": [*tokens[:300], "<x>", *tokens[301:]]}
    )
    with pytest.raises(InputError, match="another vocabulary: 1024 items"):
        compare(CompareSettings(base=baseline, candidate=renamed))
    monkeypatch.setattr(original, "version", lambda _: "0.4.0")
    with pytest.raises(InputError, match=r"another engine: llama-cpp-python 0.3.36, now llama-cpp-python 0.4.0"):
        compare(CompareSettings(base=baseline, candidate=tiny("Q6_K")))
