"""A checkpoint that is run layer by layer: the whole model's sums, the same bytes whatever happens."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ggufkit.architectures.source import open_source
from ggufkit.encoding.destination import layers_folder
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import InputError
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.sources import cut
from ggufkit.fitting.sources.layer_by_layer import LayerByLayer
from ggufkit.fitting.sums import SumsObserver
from ggufkit.formats.imatrix_file import read_imatrix
from ggufkit.formats.text import CALIBRATION_TEXT, shipped_text
from ggufkit.workflows.calibrate import CalibrateSettings, calibrate
from ggufkit.workflows.quantize import quantize

MODELS = Path(__file__).resolve().parents[2] / "models"
N_CHUNK = 6


def settings(source, output, **changes):
    base = CalibrateSettings(model=source, output=output, n_tokens=N_CHUNK * 512, threads=1, process_output=True)
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    report = calibrate(settings(MODELS / "tiny-mixtral", out))
    assert (report.n_chunk, report.model, report.notes) == (N_CHUNK, "tiny-mixtral", ())
    assert [path.name for path in out.parent.iterdir()] == ["imatrix.gguf"]
    return out


@pytest.mark.parametrize(("name", "recipe"), [("tiny-mixtral", "BF16"), ("stories260K", "F32")])
def test_counts_and_sums_are_the_whole_models(name, recipe, tmp_path):
    whole = tmp_path / "whole.gguf"
    quantize(QuantizeSettings(source=MODELS / name, output=whole, recipe=recipe, threads=1))
    calibrate(settings(MODELS / name, tmp_path / "by-layer.gguf"))
    calibrate(settings(whole, tmp_path / "whole-model.gguf"))
    ours, wanted = (read_imatrix(tmp_path / f"{each}.gguf").entries for each in ("by-layer", "whole-model"))
    assert ours.keys() == wanted.keys() and len(ours) == {"tiny-mixtral": 33, "stories260K": 35}[name]
    for tensor, entry in wanted.items():
        assert np.array_equal(ours[tensor].counts, entry.counts)
        np.testing.assert_allclose(ours[tensor].sums, entry.sums, rtol=1e-4, atol=1e-6 * entry.sums.max())


def test_the_bytes_do_not_depend_on_threads(undisturbed, tmp_path):
    calibrate(settings(MODELS / "tiny-mixtral", tmp_path / "imatrix.gguf", threads=3))
    assert (tmp_path / "imatrix.gguf").read_bytes() == undisturbed.read_bytes()


class StopError(Exception):
    """The machine goes down."""


@pytest.mark.parametrize("after", [1, N_CHUNK, N_CHUNK + 2, 3 * N_CHUNK, 4 * N_CHUNK - 1])
def test_a_run_that_ended_anywhere_goes_on_to_the_same_bytes(after, undisturbed, tmp_path):
    out = tmp_path / "imatrix.gguf"
    calls = []

    def down(progress):
        calls.append(progress.done)
        if len(calls) == after:
            raise StopError

    with pytest.raises(StopError):
        calibrate(settings(MODELS / "tiny-mixtral", out), down)
    assert not out.exists()
    calls.clear()
    calibrate(settings(MODELS / "tiny-mixtral", out), lambda *_: calls.append(1))
    assert out.read_bytes() == undisturbed.read_bytes()
    assert len(calls) <= (4 - (after - 1) // N_CHUNK) * N_CHUNK, "at most one layer is done again"
    assert not layers_folder(out).exists()


@pytest.mark.slow
def test_sigkill_at_any_moment(undisturbed, tmp_path):
    out = tmp_path / "imatrix.gguf"
    command = [sys.executable, "-m", "ggufkit", "calibrate", str(MODELS / "tiny-mixtral"), "-o", str(out)]
    command += ["--tokens", str(N_CHUNK * 512), "-t", "1", "--process-output"]
    for _ in range(2):
        run = subprocess.Popen(command, env=os.environ | {"OMP_WAIT_POLICY": "passive"}, stderr=subprocess.DEVNULL)
        while run.poll() is None and not list(layers_folder(out).glob("sums-1.npz")):
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert not out.exists() and list(layers_folder(out).glob("sums-0.npz"))
    subprocess.run(command, check=True, capture_output=True)
    assert out.read_bytes() == undisturbed.read_bytes()


def test_another_text_does_not_go_on_with_what_lies_there(undisturbed, tmp_path):
    out = tmp_path / "imatrix.gguf"

    def down(progress):
        if progress.done > 2:
            raise StopError

    with pytest.raises(StopError):
        calibrate(settings(MODELS / "tiny-mixtral", out, skip_tokens=512 * 20), down)
    calibrate(settings(MODELS / "tiny-mixtral", out))
    assert out.read_bytes() == undisturbed.read_bytes()


def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path):
    def press(progress):
        if progress.done > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        calibrate(settings(MODELS / "tiny-mixtral", tmp_path / "imatrix.gguf"), press)
    assert "Go on with the same command" in stopped.value.__notes__[0]


def test_a_family_that_cannot_be_cut_is_run_as_a_quick_file_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(cut, "CUTTABLE", ())
    report = calibrate(settings(MODELS / "stories260K", tmp_path / "imatrix.gguf"))
    assert report.n_chunk == N_CHUNK and len(report.notes) == 1
    assert report.notes[0].startswith(
        "this llama model cannot be run layer by layer: its layers have never been compar"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["imatrix.gguf"]


def test_a_text_without_a_chunk_leaves_nothing_behind(tmp_path):
    (tmp_path / "short.txt").write_text("To be or not to be.")
    with pytest.raises(InputError, match=r"at least 512 are needed"):
        calibrate(settings(MODELS / "stories260K", tmp_path / "out.gguf", text=(tmp_path / "short.txt",)))
    assert [path.name for path in tmp_path.iterdir()] == ["short.txt"]


def test_one_observer_may_look_at_all_layers(tmp_path):
    """Inputs of a layer may lie where those of the layer before lay."""
    text = shipped_text(CALIBRATION_TEXT)
    names = tuple(f"blk.{layer}.attn_{part}.weight" for layer in range(4) for part in ("q", "output"))
    with open_source(MODELS / "tiny-mixtral") as model:
        corpus = Corpus(MODELS / "tiny-mixtral", text, n_tokens=N_CHUNK * 512, threads=1)
        together, alone = SumsObserver(names.__contains__), {}
        source = LayerByLayer(model, corpus, tmp_path / "together")
        source.observe(together)
        source.discard()
        for name in names:
            one = SumsObserver(name.__eq__)
            source = LayerByLayer(model, corpus, tmp_path / "alone")
            source.observe(one)
            source.close()
            alone |= one.sums
    for name in names:
        assert np.array_equal(together.sums[name].sums, alone[name].sums), name
