"""What a fitted run takes on the disk is what was said, and a disk without room for all moments costs time alone."""

import dataclasses
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import OutputError
from ggufkit.fitting import cost, notebook
from ggufkit.fitting.cost import shapes_of
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.keeping import AGAIN
from ggufkit.fitting.notebook import Notebook
from ggufkit.fitting.sources.stream import Streams
from ggufkit.fitting.walks import walk_nbytes
from ggufkit.formats.unfinished import taken_nbytes
from ggufkit.progress import Progress
from ggufkit.recipes.search import Target
from ggufkit.reports.plan_text import render, said, said_to_lack
from ggufkit.workflows import fit_plan
from ggufkit.workflows.fit_plan import FitPlan, opened
from ggufkit.workflows.fit_settings import FitSettings
from ggufkit.workflows.fitted import FitReport, carry_out, quantize_fitted
from ggufkit.workflows.plan import plan, plan_report
from tests.workflows.forwards import assert_forwards, steps_of

ROOT = Path(__file__).resolve().parents[2]
PLENTY = 1 << 40


def settings(output: Path, model: str = "tiny-mixtral", **changes: object) -> FitSettings:
    job = QuantizeSettings(source=ROOT / "models" / model, output=output, threads=1)
    base = FitSettings(quantize=job, n_tokens=6 * 512, target=Target(bpw=4.0))
    return dataclasses.replace(base, **changes)


class FakeDisk:
    """A disk of so many bytes that holds one folder. `look` remembers the most that ever lay there, and streams."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.nbytes = folder, PLENTY
        self.most = self.streams = 0

    @property
    def free(self) -> int:
        return self.nbytes - self.taken

    @property
    def taken(self) -> int:
        return taken_nbytes(*self._folder.iterdir())

    def look(self) -> None:
        self.most = max(self.most, self.taken)
        self.streams = max(self.streams, len(list(self._folder.rglob("layers/stream-*"))))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDisk:
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = FakeDisk(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=disk.free))
    monkeypatch.setattr(notebook, "_SPARE_NBYTES", 0)

    def watched(work: Callable[..., object]) -> Callable[..., object]:
        def then_look(*args: object) -> object:
            result = work(*args)
            disk.look()
            return result

        return then_look

    monkeypatch.setattr(Notebook, "save", watched(Notebook.save))
    monkeypatch.setattr(Streams, "_write_state", watched(Streams._write_state))
    return disk


@pytest.fixture
def few_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in large models: moments take the disk, not what gradients are taken of."""
    monkeypatch.setattr(cost, "_LEAST_CHUNKS", 1)
    monkeypatch.setattr(cost, "MAX_CHUNKS", 1)


def run(job: FitPlan, disk: FakeDisk, told: list[Progress] | None = None) -> FitReport:
    seen: list[Progress] = [] if told is None else told

    def on_progress(progress: Progress) -> None:
        disk.look()
        seen.append(progress)

    report = carry_out(job, on_progress)
    assert_forwards(seen)
    return report


def noted(report: FitReport) -> list[str]:
    return [note for note in report.quantized.notes if "had no room for all moments" in note]


def needed(job: FitPlan) -> int:
    """Bytes of a disk that holds what is said, and the output."""
    return job.said.disk_nbytes + job.file_nbytes


STORIES = {"model": "stories260K", "target": Target(nbytes=290_000)}
CASES: dict[str, dict[str, Any]] = {
    "experts": {},
    "dense": STORIES,
    "given types": STORIES | {"target": None},
    "as a whole": STORIES | {"by_layer": False},
    "divergence": STORIES | {"target": Target(kld=0.1), "n_probe": 2},
}


@pytest.mark.parametrize("case", list(CASES))
def test_the_most_that_lay_there_is_what_was_said(case: str, disk: FakeDisk, tmp_path: Path) -> None:
    with opened(settings(tmp_path / "disk" / "out.gguf", **CASES[case])) as job:
        planned, room = job.said, needed(job)
        report = run(job, disk)
    labels = 8192 * len(shapes_of(job.model))  # names and checksums, which are nothing in a real model
    assert disk.streams <= 2
    assert (0.8 if case in ("experts", "dense") else 0.5) * room < disk.most <= room + labels
    assert planned.again_nbytes == 0 and AGAIN not in planned.seconds and not noted(report)


def test_moments_of_all_layers_are_said_where_types_are_chosen_or_evidence_stays(tmp_path: Path) -> None:
    out, stays = tmp_path / "out.gguf", tmp_path / "stays"
    with opened(settings(out)) as job:
        chosen = job.said
        wanted = sum(walk_nbytes([name], shapes_of(job.model)) for name in shapes_of(job.model))
    with opened(settings(out, target=None)) as job:
        given = job.said
    with opened(settings(out, target=None, evidence=stays)) as job:
        kept = job.said
    assert chosen.kept_nbytes == kept.kept_nbytes == wanted and given.kept_nbytes == 0
    assert chosen.disk_nbytes > wanted > given.disk_nbytes - chosen.disk_nbytes
    assert "of it moments that are kept" in said(chosen) and "kept" not in said(given)
    assert kept.kept_in == str(stays) and not stays.exists()


@pytest.mark.usefixtures("few_gradients")
def test_without_room_for_all_of_them_some_are_gathered_twice_to_the_same_bytes(disk: FakeDisk, tmp_path: Path) -> None:
    roomy, out = settings(tmp_path / "roomy.gguf", **STORIES), tmp_path / "disk" / "out.gguf"
    quantize_fitted(roomy)
    with opened(settings(out, **STORIES)) as job:
        ample = job.said
        disk.nbytes = needed(job) - ample.kept_nbytes // 4  # of five layers one has no room, or two
    told: list[Progress] = []
    with opened(settings(out, **STORIES)) as job:
        tight, lacking = job.said, said_to_lack(job.said)
        text = render(plan_report(job.planned(), fitting=tight))
        report = run(job, disk, told)
    assert tight.kept_nbytes + tight.again_nbytes == ample.kept_nbytes
    assert 0 < tight.again_nbytes < ample.kept_nbytes / 2
    assert tight.disk_nbytes < ample.disk_nbytes and disk.most <= disk.nbytes
    assert tight.seconds[AGAIN] > 0 and sum(tight.seconds.values()) > sum(ample.seconds.values())
    line = (
        rf"{out.parent} has no room for .*iB of moments until types are known: they are gathered twice, .* of that time"
    )
    assert re.fullmatch(line, lacking) and f"note: {lacking}" in text
    assert out.read_bytes() == roomy.quantize.output.read_bytes()
    assert disk.streams <= 2
    assert len(noted(report)) == 1
    assert steps_of(told) == ["weighing tokens", "calibration and types", "encoding"]
    steps = [one.step for one in told]
    assert steps.index(AGAIN) > max(i for i, step in enumerate(steps) if step == "types")
    assert "read again" in told[steps.index(AGAIN)].what


@pytest.mark.usefixtures("few_gradients")
def test_a_disk_that_lacks_the_room_for_moments_is_taken_and_a_smaller_one_is_not(
    disk: FakeDisk, tmp_path: Path
) -> None:
    whole, fit = (settings(folder / "out.gguf", **STORIES) for folder in (tmp_path, tmp_path / "disk"))
    quantize_fitted(whole)
    with opened(fit) as job:
        least = job.disk.needs.least + 290_000
    disk.nbytes = least - 1
    with opened(fit) as job, pytest.raises(OutputError, match=r"out.gguf, with what lies beside it on the way, needs"):
        job.check()
    disk.nbytes = least + 100_000  # journals and the like
    with opened(fit) as job:
        assert job.kept.nbytes < job.kept.again_nbytes
        run(job, disk)
    assert fit.quantize.output.read_bytes() == whole.quantize.output.read_bytes()


@pytest.mark.usefixtures("few_gradients")
def test_a_run_goes_on_where_what_it_had_taken_leaves_too_little_for_another(disk: FakeDisk, tmp_path: Path) -> None:
    whole, fit = (settings(folder / "out.gguf", **STORIES) for folder in (tmp_path, tmp_path / "disk"))
    quantize_fitted(whole)

    def stop(progress: Progress) -> None:
        if progress.step == "encoding" and "blk.0.ffn_up" in progress.what:
            raise KeyboardInterrupt

    with opened(fit) as job:
        disk.nbytes = needed(job) + 500_000  # names and checksums, journals
        with pytest.raises(KeyboardInterrupt) as stopped:
            carry_out(job, stop)
        assert disk.free < job.disk.needs.least + 290_000
    assert re.search(r", [1-6]?\d % of the file$", stopped.value.__notes__[0])
    again = dataclasses.replace(fit, quantize=dataclasses.replace(fit.quantize, resume=True))
    with opened(again) as job:
        assert job.said.again_nbytes == 0  # what is kept is there
        run(job, disk)
    assert fit.quantize.output.read_bytes() == whole.quantize.output.read_bytes()


def test_a_plan_leaves_out_what_a_disk_without_room_costs_and_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_plan, "_WORTH_MEASURING_S", math.inf)
    source, figures = ROOT / "models" / "tiny-mixtral", {}
    for free in (PLENTY, 1 << 20):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        report = plan(source, effort=Effort.BALANCED, target=Target(bpw=4.0), n_tokens=4096, threads=2)
        assert report.fitting is not None
        figures[free] = report.fitting, render(report)
    (roomy, text), (tight, lacking) = figures.values()
    assert roomy.seconds == tight.seconds and roomy.disk_nbytes == tight.disk_nbytes > tight.kept_nbytes
    assert (roomy.again_nbytes, roomy.again_seconds) == (0, 0.0) and AGAIN not in tight.seconds
    assert tight.again_nbytes == tight.kept_nbytes and tight.again_seconds > 0
    line = f"note: {source.parent} has no room for .* of moments until types are known: for an output there they are "
    assert re.search(line + r"gathered twice, which takes \S+ ?s? more", lacking) and "no room" not in text


def test_evidence_that_finds_no_place_is_said(disk: FakeDisk, tmp_path: Path) -> None:
    fit = settings(tmp_path / "disk" / "out.gguf", target=None, evidence=tmp_path / "disk" / "stays")
    with opened(fit) as job:
        disk.nbytes = job.disk.needs.least + job.plain.plan.file_nbytes
    with opened(fit) as job:
        assert AGAIN not in job.said.seconds
        assert said_to_lack(job.said).endswith("of moments: the next file has to gather them anew")


def test_a_disk_that_filled_up_meanwhile_costs_time_and_the_bar_says_so(
    disk: FakeDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = settings(tmp_path / "disk" / "out.gguf", **STORIES)
    told: list[Progress] = []
    with opened(fit) as job:
        monkeypatch.setattr(notebook, "_SPARE_NBYTES", PLENTY)  # nothing was said beforehand
        report = run(job, disk, told)
    again = [one.what for one in told if one.step == AGAIN]
    assert "encoding" in again[0] and again[-1].endswith("read again") and len(noted(report)) == 1
