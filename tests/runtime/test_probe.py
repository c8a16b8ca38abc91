"""The probe of quantized kernels: a crash in the child is a verdict, remembered for this library and machine."""

import signal
import sys

import pytest

from ggufkit.errors import EngineError
from ggufkit.runtime import machine, probe
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.probe import Kernels

KILL_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "suspected", lambda: True)
    return tmp_path / "made" / "on" / "demand" / "probe.json"


class Runner:
    """Answers with or without extra kernels, and counts."""

    def __init__(self, extra: int, plain: int = 0) -> None:
        self.codes, self.calls = {True: extra, False: plain}, 0

    def __call__(self, extra: bool) -> int:
        self.calls += 1
        return self.codes[extra]


def test_a_child_that_dies_of_a_signal_is_seen():
    assert probe.run_child(True, (sys.executable, "-c", KILL_ITSELF)) == -signal.SIGSEGV


def test_a_child_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(probe, "TIMEOUT_SECONDS", 0.2)
    assert probe.run_child(True, (sys.executable, "-c", "import time; time.sleep(60)")) == 124


def test_a_crash_of_the_extra_kernels_leaves_the_plain_ones(cache):
    found = probe.verdict(runner=Runner(-signal.SIGSEGV), cache=cache)
    assert found.kernels is Kernels.PLAIN
    assert "ended with SIGSEGV" in found.notice
    assert probe.require(found) is False


def test_a_verdict_is_remembered_until_forced(cache):
    runner = Runner(-signal.SIGSEGV)
    first = probe.verdict(runner=runner, cache=cache)
    again = probe.verdict(runner=runner, cache=cache)
    assert runner.calls == 2
    assert (again.kernels, again.notice, again.remembered) == (first.kernels, first.notice, True)
    assert probe.verdict(force=True, runner=Runner(0), cache=cache).kernels is Kernels.ALL
    assert probe.verdict(runner=runner, cache=cache).kernels is Kernels.ALL


def test_another_processor_or_library_is_probed_again(cache, monkeypatch):
    runner = Runner(0)
    probe.verdict(runner=runner, cache=cache)
    monkeypatch.setattr(machine, "cpu", lambda: machine.Cpu("another", frozenset()))
    probe.verdict(runner=runner, cache=cache)
    assert runner.calls == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}', "null"])
def test_a_spoilt_cache_is_no_obstacle(cache, content):
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    assert probe.verdict(runner=Runner(0), cache=cache).kernels is Kernels.ALL
    assert probe.verdict(runner=Runner(-4), cache=cache).remembered


def test_an_unwritable_cache_is_no_error(cache, tmp_path):
    (tmp_path / "file").write_text("")
    assert probe.verdict(runner=Runner(0), cache=tmp_path / "file" / "probe.json").kernels is Kernels.ALL


def test_a_library_that_always_dies_is_refused_with_advice(cache):
    found = probe.verdict(runner=Runner(-signal.SIGILL, -signal.SIGILL), cache=cache)
    with pytest.raises(EngineError, match=r"SIGILL.*built for another processor.*pip install"):
        probe.require(found)


def test_nothing_is_probed_without_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "suspected", lambda: False)
    runner = Runner(-11)
    assert probe.verdict(runner=runner, cache=tmp_path / "p.json") == probe.Verdict(Kernels.ALL, probed=False)
    assert runner.calls == 0


def test_instructions_the_processor_lacks_are_named():
    info = "CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 1 | REPACK = 1 | "
    assert probe.missing_features(info, frozenset({"sse2", "pni", "avx2"})) == ["AVX512"]
    assert probe.missing_features(info, frozenset()) == []


def test_an_engine_falls_back_and_says_so(stories, monkeypatch):
    plain = probe.Verdict(Kernels.PLAIN, "plain kernels are used")
    monkeypatch.setattr(probe, "verdict", lambda: plain)
    with Engine.open(stories, n_ctx=64, threads=1) as engine:
        assert engine.settings.use_extra_bufts is False
        assert engine.notices == ("plain kernels are used",)


def test_the_real_probe_passes_with_plain_kernels():
    assert probe.run_child(False) == 0


@pytest.mark.skipif(machine.cpu().has_amx, reason="with AMX the outcome depends on how llama.cpp was built")
def test_the_real_probe_passes_with_extra_kernels():
    assert probe.run_child(True) == 0
