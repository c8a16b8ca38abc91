"""Two models on one text: llama-perplexity's own figures, facts that need no oracle, and what cannot be compared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufkit.errors import InputError
from ggufkit.proof.comparison import Comparison
from ggufkit.workflows.compare import CompareSettings, compare
from tests.workflows import faults

ROOT = Path(__file__).resolve().parents[2]
# what llama.cpp adds up in BF16 depends on the instructions that a processor has: it is recorded on two kinds
FIGURES = [
    json.loads((ROOT / "tests" / "data" / "tiny-mixtral" / name).read_text())["files"]
    for name in ("figures.json", "figures-avx2.json")
]

Tiny = Callable[[str], Path]


def run(base: Path, candidate: Path, **changes: object) -> Comparison:
    return compare(CompareSettings(base=base, candidate=candidate, **{"chunks": 2, "threads": 1, **changes}))


def test_figures_are_those_of_llama_perplexity(tiny: Tiny) -> None:
    """llama-perplexity --kl-divergence over 60 chunks of 512; its base is stored in 16 bits, hence the last digits."""
    seen: list[float] = []
    got = compare(
        CompareSettings(base=tiny("BF16"), candidate=tiny("Q4_K_M"), chunks=60, threads=1),
        lambda p: seen.append(p.done / p.total),
    )
    f = got.figures
    recorded = min(FIGURES, key=lambda kind: abs(kind["bf16"]["ppl"] - f["ppl_base"].value))
    expected = recorded["Q4_K_M"]
    assert (f["ppl"].value, f["ppl"].naive_se) == pytest.approx(expected["ppl"], abs=1e-4)
    assert f["ppl_base"].value == pytest.approx(recorded["bf16"]["ppl"], abs=1e-4)
    assert (f["ln_ppl_ratio"].value, f["ln_ppl_ratio"].naive_se) == pytest.approx(expected["ln_ppl_ratio"], abs=2e-6)
    assert (f["kld_mean"].value, f["kld_mean"].naive_se) == pytest.approx(expected["mean_kld"], abs=2e-6)
    if "median_kld" in expected:
        assert f["kld_median"].value == pytest.approx(expected["median_kld"][0], abs=2e-6)
    assert f["kld_p999"].value == pytest.approx(expected["kld_99.9"][0], rel=1e-4)
    assert (100 * f["dp_rms"].value, 100 * f["dp_rms"].naive_se) == pytest.approx(expected["rms_dp_percent"], abs=1e-3)
    assert (100 * f["same_top"].value, 100 * f["same_top"].naive_se) == pytest.approx(
        expected["same_top_percent"],
        abs=8e-3,  # one of 15,300 tokens: their base ties where ours does not
    )
    for name in ("ppl", "kld_mean", "ln_ppl_ratio", "same_top", "dp_rms"):
        assert f[name].low < f[name].value < f[name].high
    assert f["ppl"].se > 1.3 * f["ppl"].naive_se, "tokens of a chunk are no independent evidence"
    assert seen == sorted(seen) and seen[-1] == 1
    assert len(got.chunks) == 60
    assert np.mean([row.kld for row in got.chunks]) == pytest.approx(f["kld_mean"].value)
    assert [p.kld for p in got.passages] == sorted((p.kld for p in got.passages), reverse=True)
    assert got.passages[0].kld == pytest.approx(max(row.kld_max for row in got.chunks))
    assert {layer.layer for layer in got.routers} == {0, 1, 2, 3}
    assert all(0.85 < layer.same_set <= layer.overlap < 1 for layer in got.routers)


def test_a_model_against_itself_differs_by_exactly_nothing(tiny: Tiny) -> None:
    got = run(tiny("Q6_K"), tiny("Q6_K"))
    f = got.figures
    assert f["kld_mean"].value == f["kld_max"].value == f["ln_ppl_ratio"].value == f["dp_rms"].value == 0
    assert f["same_top"].value == 1
    assert all(layer.overlap == layer.same_set == 1 for layer in got.routers)
    assert got.base == got.candidate
    assert got.notices == ()


def test_watching_the_routers_changes_no_figure(tiny: Tiny) -> None:
    with_, without = (run(tiny("BF16"), tiny("Q6_K"), routers=on) for on in (True, False))
    assert with_.figures == without.figures
    assert without.routers == ()


def test_chunks_that_span_batches_give_the_same_figures(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from ggufkit.runtime import scoring

    one = run(tiny("BF16"), tiny("Q6_K"), n_ctx=256)
    monkeypatch.setattr(scoring, "N_STEP", 64)  # four decodes a chunk
    many = run(tiny("BF16"), tiny("Q6_K"), n_ctx=256)
    for name, row in one.figures.items():
        assert many.figures[name].value == pytest.approx(row.value, rel=2e-3, abs=2e-4), name
    assert one.text.n_token == many.text.n_token == 2 * 127


def test_a_passage_shows_what_was_read_and_what_was_thought(tiny: Tiny) -> None:
    passage = run(tiny("BF16"), tiny("Q2_K")).passages[0]
    text = (ROOT / "ggufkit" / "data" / "text" / "evaluation-prose.txt").read_text()
    assert passage.before.lstrip() + passage.target in text
    for words in (passage.base, passage.candidate):
        assert len(words) == 5
        assert [p for _, p in words] == sorted((p for _, p in words), reverse=True)
        assert 0 < sum(p for _, p in words) <= 1


def test_other_vocabularies_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    from ggufkit.encoding.settings import QuantizeSettings
    from ggufkit.workflows.quantize import quantize

    other = tmp_path / "stories.gguf"
    quantize(QuantizeSettings(source=ROOT / "models" / "stories260K", output=other, recipe="F16"))
    with pytest.raises(InputError, match=r"stories.gguf has 512 tokens, tiny-BF16.gguf has 1024: not the same vocab"):
        run(tiny("BF16"), other)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "0 bytes"),
        (b"\xff\xfe caf\xe9", "UTF-16, not UTF-8"),
        (b"Once upon a time. " * 60, r"tokens of text make \d chunks? of 512, at least 2 are needed"),
    ],
)
def test_texts_that_cannot_be_used_are_refused(content: bytes, wanted: str, tiny: Tiny, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    with pytest.raises(InputError, match=wanted):
        run(tiny("BF16"), tiny("Q6_K"), text=text)


def test_a_model_that_predicts_nothing_is_said_to_be_damaged(tiny: Tiny, tmp_path: Path) -> None:
    """llama.cpp makes equal logits of a NaN in a norm before experts; perplexity is the size of the vocabulary."""

    def nan(ref: Any, raw: np.ndarray) -> np.ndarray:
        raw.reshape(-1)[12:16] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)
        return raw

    blank = faults.rewrite(tiny("Q6_K"), tmp_path / "blank.gguf", edit=faults.only("blk.2.ffn_norm.weight", nan))
    result = compare(CompareSettings(base=tiny("Q6_K"), candidate=blank, chunks=2, n_ctx=64, threads=1))
    assert result.figures["ppl"].value == pytest.approx(1024)
    (notice,) = [one for one in result.notices if "damaged" in one]
    assert notice.startswith("blank.gguf holds every token equally likely")
