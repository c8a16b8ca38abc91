"""Doctor reports what is there, and what is missing as a problem."""

import dataclasses
import json

from ggufkit.errors import EngineError
from ggufkit.runtime import doctor, library, machine, probe


def _nothing_wrong(monkeypatch):
    monkeypatch.setattr(machine, "memory", lambda: machine.MachineMemory(16 << 30, 12 << 30))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: doctor.shutil._ntuple_diskusage(1 << 40, 0, 1 << 40))


def test_a_good_machine_has_no_problems(monkeypatch, tmp_path):
    _nothing_wrong(monkeypatch)
    monkeypatch.setattr(probe, "verdict", lambda *, force: probe.Verdict(probe.Kernels.ALL))
    report = doctor.examine(folder=tmp_path)
    assert report.problems == ()
    assert (report.engine, report.kernels, report.disk_free) == ("0.3.36", "all", 1 << 40)
    assert report.threads == machine.choose_threads().n
    assert "=" in report.waiting
    assert json.dumps(dataclasses.asdict(report))


def test_a_missing_engine_is_a_problem_not_an_error(monkeypatch, tmp_path):
    def absent():
        raise EngineError("llama-cpp-python is not installed")

    _nothing_wrong(monkeypatch)
    monkeypatch.setattr(library, "info", absent)
    report = doctor.examine(folder=tmp_path)
    assert report.engine == ""
    assert [problem.what for problem in report.problems] == ["llama-cpp-python is not installed"]


def test_crashing_amx_kernels_are_explained_with_their_cost(monkeypatch, tmp_path):
    _nothing_wrong(monkeypatch)
    monkeypatch.setattr(machine, "cpu", lambda: machine.Cpu("Sapphire", frozenset({"amx_int8", "avx2"})))
    monkeypatch.setattr(probe, "verdict", lambda *, force: probe.Verdict(probe.Kernels.PLAIN, "plain kernels"))
    report = doctor.examine(folder=tmp_path)
    assert "also switches off the repacked" in report.amx
    assert report.cpu_flags == ("amx_int8", "avx2")
    assert "-mno-amx-tile" in report.problems[0].advice


def test_little_disk_and_memory_are_problems(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "memory", lambda: machine.MachineMemory(16 << 30, 1 << 30))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: doctor.shutil._ntuple_diskusage(1 << 40, 0, 1 << 30))
    what = [problem.what for problem in doctor.examine(folder=tmp_path).problems]
    assert any("1.0 GiB are free on the disk" in line for line in what)
    assert any("1.0 of 16.0 GiB of memory" in line for line in what)


def test_compiled_code_that_cannot_be_kept_is_a_problem(monkeypatch, tmp_path):
    _nothing_wrong(monkeypatch)
    monkeypatch.setattr(doctor, "cache_folder", lambda: None)
    report = doctor.examine(folder=tmp_path)
    assert report.numba_cache == "nowhere"
    assert any("NUMBA_CACHE_DIR" in problem.advice for problem in report.problems)
