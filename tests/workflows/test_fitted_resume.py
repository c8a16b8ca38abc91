"""A fitted run that is killed in any of its steps goes on there, and ends with the same bytes."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import OutputError
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.layer_gradients import LayerGradients
from ggufkit.fitting.sources.layer_by_layer import LayerByLayer
from ggufkit.formats.unfinished import kept_path, partial_path
from ggufkit.progress import Progress
from ggufkit.recipes.search import Target
from ggufkit.workflows.fit_settings import FitSettings
from ggufkit.workflows.fitted import quantize_fitted
from tests.workflows.forwards import assert_forwards

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "models" / "stories260K"
# steps of a run with a target, and at what percentage of what is shown of each the process is killed
KILLS = {"weighing tokens": 50, "calibration": 50, "types": 40, "encoding": 60}

CHILD = """
import os, re, signal, sys
from pathlib import Path
from ggufkit.fitting import evidence
from ggufkit.workflows.fitted import quantize_fitted
from tests.workflows.test_fitted_resume import settings

evidence._SAVE_EVERY_S = 0.0

def kill(progress):
    found = re.match(r"step . of ., .*? (\\d+) % ", progress.what + " ")
    if found and progress.step == sys.argv[2] and int(found[1]) >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

quantize_fitted(settings(Path(sys.argv[1])), kill)
"""


def settings(output: Path, **changes: object) -> FitSettings:
    job = QuantizeSettings(source=SOURCE, output=output, threads=1)
    return FitSettings(
        quantize=dataclasses.replace(job, **changes), n_tokens=12 * 512, n_probe=4, target=Target(nbytes=290_000)
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("whole") / "out.gguf"
    quantize_fitted(settings(out))
    assert os.listdir(out.parent) == ["out.gguf"]
    return out.read_bytes()


@pytest.mark.parametrize("step", list(KILLS))
def test_killed_in_a_step_it_goes_on_there(step: str, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    child = subprocess.run([sys.executable, "-c", CHILD, str(out), step, str(KILLS[step])], cwd=ROOT, check=False)
    assert child.returncode == -signal.SIGKILL
    if kept_path(out).exists():
        with pytest.raises(OutputError, match="Continue it with --resume, or start again with --restart"):
            quantize_fitted(settings(out))
    seen: dict[str, list[int]] = {}  # percent of each step

    def watch(progress: Progress) -> None:
        found = re.match(r"step \d of \d, .*? (\d+) %", progress.what)
        assert found
        seen.setdefault(progress.step, []).append(int(found[1]))

    quantize_fitted(settings(out, resume=True), watch)
    assert out.read_bytes() == whole
    assert os.listdir(tmp_path) == ["out.gguf"]
    if step == "weighing tokens":
        assert seen[step][0] > 0 and "quick file" not in seen  # layer by layer: those that are done stay
    if step in ("calibration", "types"):  # types are measured layer by layer, too
        assert seen["calibration"][0] > 25  # killed at 50: the layer in hand is read again, no other
    if step == "encoding":
        assert "calibration" not in seen and "weighing tokens" not in seen


def test_experts_that_were_counted_before_the_kill_do_not_make_it_another_run(tmp_path: Path) -> None:
    """The header says how many tokens each expert saw; a run that goes on reads no text to know it at once."""
    source = ROOT / "models" / "tiny-mixtral"
    fits = []
    for name in ("whole.gguf", "out.gguf"):
        job = QuantizeSettings(source=source, output=tmp_path / name, threads=1)
        fits.append(FitSettings(quantize=job, n_tokens=8 * 512, target=Target(bpw=4.5)))
    whole, fit = fits
    told: list[Progress] = []

    def stop(progress: Progress) -> None:
        told.append(progress)
        if progress.step == "encoding" and "blk.1" in progress.what:
            raise KeyboardInterrupt

    quantize_fitted(whole)
    with pytest.raises(KeyboardInterrupt):
        quantize_fitted(fit, stop)
    assert_forwards(told, ends=False)
    told.clear()
    again = dataclasses.replace(fit, quantize=dataclasses.replace(fit.quantize, resume=True))
    report = quantize_fitted(again, told.append)
    assert_forwards(told)
    assert report.quantized.resumed_nbytes > 0
    assert fit.quantize.output.read_bytes() == whole.quantize.output.read_bytes()


def test_what_was_kept_for_another_text_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"

    def stop(progress: Progress) -> None:
        if progress.step == "types" and "blk.0.attn_q" in progress.what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        quantize_fitted(settings(out), stop)
    note = r"interrupted; kept: [1-5] of 5 readings of the calibration text, \d+ measurements of types"
    assert re.fullmatch(note, stopped.value.__notes__[0])
    (tmp_path / "text.txt").write_text("One day, a little cat went to the park. " * 3000)
    other = dataclasses.replace(settings(out, resume=True), text=(tmp_path / "text.txt",))
    with pytest.raises(OutputError, match="of another source, text or effort.*--restart"):
        quantize_fitted(other)
    again = dataclasses.replace(settings(out, restart=True), effort=Effort.FAST, target=None)
    quantize_fitted(again)
    assert not kept_path(out).exists() and not partial_path(out).exists()


def test_another_target_uses_what_was_measured(whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"

    def stop(progress: Progress) -> None:
        if progress.step == "encoding":
            raise KeyboardInterrupt

    other = dataclasses.replace(settings(out), target=Target(nbytes=270_000))
    with pytest.raises(KeyboardInterrupt):
        quantize_fitted(other, stop)
    steps: set[str] = set()
    partial_path(out).unlink()  # the other types' bytes
    quantize_fitted(settings(out, resume=True), lambda p: steps.add(p.step))
    assert out.read_bytes() == whole
    assert not steps & {"quick file", "calibration"}


def test_evidence_that_stays_serves_the_next_file(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, first, second = tmp_path / "a" / "evidence", tmp_path / "first.gguf", tmp_path / "second.gguf"
    smaller = dataclasses.replace(settings(first), target=Target(nbytes=250_000), evidence=kept)
    quantize_fitted(smaller)
    assert [path.name for path in kept.iterdir()] and not kept_path(first).exists()

    def read_again(*_: object, **__: object) -> int:
        raise AssertionError("the text was read again")

    monkeypatch.setattr(LayerByLayer, "observe", read_again)
    monkeypatch.setattr(LayerGradients, "measure", read_again)
    quantize_fitted(dataclasses.replace(settings(second), evidence=kept))
    assert second.read_bytes() == whole


def test_evidence_of_another_text_is_not_taken(tmp_path: Path) -> None:
    kept, text = tmp_path / "evidence", tmp_path / "text.txt"
    text.write_text("Once upon a time there was a small house. " * 1000)
    for index, more in enumerate(({}, {"text": (text,)})):
        job = dataclasses.replace(settings(tmp_path / f"{index}.gguf"), evidence=kept, **more)
        quantize_fitted(job)
    assert len(list(kept.iterdir())) == 2
    assert (tmp_path / "0.gguf").read_bytes() != (tmp_path / "1.gguf").read_bytes()


def test_a_run_that_ends_before_its_file_leaves_the_evidence_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, out = tmp_path / "evidence", tmp_path / "second.gguf"
    quantize_fitted(dataclasses.replace(settings(tmp_path / "first.gguf"), evidence=kept))
    found = sorted(path.name for path in kept.rglob("*"))

    def broken(_: LayerByLayer) -> None:
        raise OutputError("the disk is gone")

    with monkeypatch.context() as there:
        there.setattr(LayerByLayer, "start", broken)
        with pytest.raises(OutputError, match="the disk is gone"):
            quantize_fitted(dataclasses.replace(settings(out), evidence=kept))
    assert sorted(path.name for path in kept.rglob("*")) == found
    assert not kept_path(out).exists()  # nothing to be resumed: the same command may be given again
    quantize_fitted(dataclasses.replace(settings(out), evidence=kept))


def test_a_place_where_no_evidence_can_stay_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Not a directory"):
        quantize_fitted(dataclasses.replace(settings(tmp_path / "out.gguf"), evidence=tmp_path / "file" / "evidence"))
    assert os.listdir(tmp_path) == ["file"]
