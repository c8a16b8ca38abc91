"""Importance of the shipped model: llama-imatrix's numbers, merging, continuing, Ctrl-C, and bad texts.

tests/data/tiny-mixtral/imatrix-4-chunks.npz holds four tensors of what llama-imatrix (0c1e57098) wrote for the first
4 chunks of the shipped calibration text: llama-imatrix -m bf16.gguf -f calibration.txt -c 512 --chunks 4
imatrix-4-chunks-avx2.npz is the same of a processor without AVX-512 (llama-cpp-python 0.3.36's): sums of BF16 products
are rounded otherwise there, and a router that nearly ties sends a token to another expert.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import quant
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import CutError, InputError, OutputError
from ggufkit.fitting.coverage import coverage_of
from ggufkit.fitting.sources.layer_by_layer import LayerByLayer
from ggufkit.formats.imatrix import Imatrix
from ggufkit.formats.imatrix_file import read_imatrix
from ggufkit.progress import Progress
from ggufkit.workflows.calibrate import CalibrateSettings, calibrate, gathered_path, merge_files
from ggufkit.workflows.quantize import quantize
from quant.importance import InputSums
from tests.workflows.forwards import assert_forwards, steps_of

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = [
    np.load(ROOT / "tests" / "data" / "tiny-mixtral" / name)
    for name in ("imatrix-4-chunks.npz", "imatrix-4-chunks-avx2.npz")
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "bf16.gguf"
    source = ROOT / "models" / "tiny-mixtral"
    quantize(QuantizeSettings(source=source, output=out, recipe="BF16", encoder=quant.Encoder.GGML, threads=1))
    return out


def settings(model: Path, output: Path, **changes: object) -> CalibrateSettings:
    base = CalibrateSettings(model=model, output=output, n_tokens=4 * 512, threads=1)
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def four_chunks(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Imatrix:
    out = tmp_path_factory.mktemp("imatrix") / "four.gguf"
    report = calibrate(settings(model, out))
    assert (report.n_chunk, report.n_tokens, report.interrupted) == (4, 2048, False)
    return read_imatrix(out)


@pytest.mark.parametrize("name", [key.removesuffix(".counts") for key in REFERENCES[0] if key.endswith(".counts")])
def test_numbers_are_those_of_llama_imatrix(name: str, four_chunks: Imatrix) -> None:
    entry = four_chunks.entries[name]
    recorded = min(REFERENCES, key=lambda kind: np.abs(entry.sums - kind[f"{name}.in_sum2"]).max())
    np.testing.assert_allclose(entry.sums, recorded[f"{name}.in_sum2"], rtol=1e-3)
    np.testing.assert_allclose(entry.counts, recorded[f"{name}.counts"], rtol=1e-3)


def test_two_runs_add_up_to_one(model: Path, four_chunks: Imatrix, tmp_path: Path) -> None:
    calibrate(settings(model, tmp_path / "first.gguf", n_tokens=1024))
    second = settings(model, tmp_path / "both.gguf", n_tokens=1024, skip_tokens=1024, add_to=(tmp_path / "first.gguf",))
    report = calibrate(second)
    both = read_imatrix(tmp_path / "both.gguf")
    assert (both.chunk_count, both.chunk_size, report.coverage.n_tokens) == (4, 512, 2048)
    for name, entry in four_chunks.entries.items():
        np.testing.assert_allclose(both.entries[name].sums, entry.sums, rtol=2e-3, atol=1e-4)


def test_ctrl_c_keeps_what_was_gathered(model: Path, tmp_path: Path) -> None:
    def stop(p: Progress) -> None:
        if p.done >= 4:
            raise KeyboardInterrupt

    report = calibrate(settings(model, tmp_path / "cut.gguf", n_tokens=8 * 512), stop)
    assert report.interrupted and report.n_chunk == 4
    assert read_imatrix(tmp_path / "cut.gguf").entries["blk.0.attn_q.weight"].counts.tolist() == [2048]


def test_a_family_that_cannot_be_cut_is_run_as_a_quick_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(_: LayerByLayer) -> None:
        raise CutError("this model cannot be run layer by layer")

    monkeypatch.setattr(LayerByLayer, "start", cannot)
    told: list[Progress] = []
    report = calibrate(settings(ROOT / "models" / "stories260K", tmp_path / "out.gguf", n_tokens=4 * 512), told.append)
    assert report.notes == ("this model cannot be run layer by layer. It was run as a quick quantized file.",)
    assert_forwards(told)
    assert steps_of(told) == ["quick file", "calibration"]


def test_an_error_of_the_observer_is_raised_after_the_batch(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise quant.errors.NonFiniteError("activations are NaN or infinite")

    monkeypatch.setattr("ggufkit.fitting.sums.input_sums", fail)
    with pytest.raises(InputError, match=r"bf16.gguf: inputs of blk\.0\.attn_\w+\.weight: activations are NaN"):
        calibrate(settings(model, tmp_path / "never.gguf"))
    assert not (tmp_path / "never.gguf").exists()


def test_a_short_text_says_how_much_is_needed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("To be or not to be.")
    with pytest.raises(InputError, match=r"has \d+ tokens of this model, at least 512 are needed"):
        calibrate(settings(model, tmp_path / "out.gguf", text=(tmp_path / "short.txt",)))


def test_an_existing_output_is_not_replaced(model: Path, tmp_path: Path) -> None:
    (tmp_path / "there.gguf").write_bytes(b"precious")
    with pytest.raises(OutputError, match="--force"):
        calibrate(settings(model, tmp_path / "there.gguf"))
    with pytest.raises(OutputError, match="is the input itself"):
        merge_files((tmp_path / "there.gguf",), tmp_path / "there.gguf")


def test_coverage_names_experts_that_were_hardly_seen() -> None:
    zeros = np.zeros((4, 8))
    sums = {
        "blk.1.ffn_up_exps.weight": InputSums(zeros, np.array([900, 255, 0, 845])),
        "blk.0.ffn_up_exps.weight": InputSums(zeros, np.array([500, 500, 500, 500])),
        "blk.0.attn_q.weight": InputSums(zeros[:1], np.array([1000])),
    }
    coverage = coverage_of({name: one.counts for name, one in sums.items()})
    assert coverage.n_tokens == 1000
    assert [row.layer for row in coverage.layers] == [0, 1]
    assert coverage.under_visited == ((1, 1), (1, 2))
    assert coverage.notes[0].startswith("2 of 8 experts saw fewer than 256 tokens (layer 1 expert 1, layer 1 expert 2)")


def test_a_process_that_dies_leaves_what_it_gathered(model: Path, four_chunks: Imatrix, tmp_path: Path) -> None:
    """Killed by the library in the third chunk: two are kept, said, and go on to the same sums."""
    out = tmp_path / "out.gguf"
    code = """
import os, sys
from ggufkit.workflows import calibrate
calibrate.KEEP_EVERY_S = 0.0
plain = calibrate._keep
def keep(settings, sums, n_chunk):
    plain(settings, sums, n_chunk)
    if n_chunk == 2:
        os.abort()
calibrate._keep = keep
from ggufkit.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "calibrate", str(model), "-o", str(out), "--tokens", "2048", "-t", "1"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ends llama.cpp (abort, SIGABRT while it computes)" in done.stderr
    assert f"2 chunks are kept. Go on with: --add-to '{gathered_path(out)}' --skip-tokens 1024" in done.stderr
    assert not out.exists()
    calibrate(settings(model, out, n_tokens=1024, skip_tokens=1024, add_to=(gathered_path(out),)))
    assert not gathered_path(out).exists()
    both = read_imatrix(out)
    assert both.chunk_count == 4
    for name, entry in four_chunks.entries.items():
        np.testing.assert_allclose(both.entries[name].sums, entry.sums, rtol=1e-5)
