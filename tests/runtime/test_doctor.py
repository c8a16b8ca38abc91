"""Doctor reports what is there, and what is missing as a problem."""

import dataclasses
import json
import signal

import pytest

from ggufkit.errors import EngineError
from ggufkit.runtime import doctor, library, machine, probe
from ggufkit.runtime.diagnosis import diagnose


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


def test_trials_step_by_step_name_one_cause_a_line(monkeypatch, tmp_path):
    """The server whose Python brings its own C++ library: numbers run, every vocabulary dies."""
    _nothing_wrong(monkeypatch)
    codes = {"load": 0, "plain": 0, "vocabulary": -signal.SIGSEGV, "extra": 0}
    monkeypatch.setattr(doctor, "run_trial", lambda trial: codes[trial])
    monkeypatch.setattr(probe, "verdict", lambda *, force: probe.Verdict(probe.Kernels.ALL))
    report = doctor.examine(probe=True, folder=tmp_path)
    assert "the same with a vocabulary: ended with SIGSEGV" in report.tried
    assert "the same with repacked and AMX kernels: runs" in report.tried
    (problem,) = report.problems
    assert "another C++ library in the process" in problem.what
    assert "-static-libstdc++" in problem.advice
    assert "-static-libgcc" not in problem.advice  # exceptions must pass from library to library
    assert "AMX" not in problem.what and "another processor" not in problem.what


def test_a_library_that_dies_without_amx_does_not_blame_it(monkeypatch, tmp_path):
    _nothing_wrong(monkeypatch)
    found = diagnose(lambda trial: -signal.SIGSEGV if trial is not probe.Trial.LOAD else 0)
    assert found.tried == ("loading the library: runs", "a small model, plain kernels: ended with SIGSEGV")
    ((what, advice),) = found.causes
    assert "neither AMX nor a vocabulary has a part in it" in what
    assert "LLAMA_CPP_LIB_PATH" in advice


def test_a_library_that_cannot_be_loaded_is_not_loaded_by_the_doctor(monkeypatch, tmp_path):
    _nothing_wrong(monkeypatch)
    monkeypatch.setattr(doctor, "run_trial", lambda trial: -signal.SIGILL)
    monkeypatch.setattr(library, "info", lambda: pytest.fail("it was loaded"))
    report = doctor.examine(probe=True, folder=tmp_path)
    assert report.engine == ""
    assert "an instruction that this processor lacks" in report.problems[0].what


@pytest.mark.parametrize("trial", list(probe.Trial))
def test_the_trials_run_here(trial):
    if trial is probe.Trial.EXTRA and machine.cpu().has_amx:
        pytest.skip("with AMX the outcome depends on how llama.cpp was built")
    assert probe.run_trial(trial) == 0


def test_a_deleted_folder_is_a_problem_not_an_error(monkeypatch, tmp_path):
    _nothing_wrong(monkeypatch)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(probe, "verdict", lambda *, force: probe.Verdict(probe.Kernels.ALL))
    assert [problem.what for problem in doctor.examine().problems] == ["the current folder was deleted"]


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
