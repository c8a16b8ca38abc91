"""Cores that other programs take are left to them, and taken back; a number that was asked for stays."""

import os
import sys

import pytest

from ggufkit.runtime import contention
from ggufkit.runtime.contention import Governor
from ggufkit.runtime.engine import Engine


class Machine:
    """Four cores: of each second, `idle` and `own` core seconds."""

    def __init__(self, monkeypatch):
        self.now = self.idle_all = self.own_all = 0.0
        monkeypatch.setattr(contention, "perf_counter", lambda: self.now)
        monkeypatch.setattr(contention, "idle_seconds", lambda: self.idle_all)
        monkeypatch.setattr(contention, "_own_seconds", lambda: self.own_all)

    def second(self, idle: float, own: float) -> None:
        self.now += 1
        self.idle_all += idle
        self.own_all += own


def test_threads_follow_what_others_leave(monkeypatch):
    machine = Machine(monkeypatch)
    governor = Governor(4)
    for idle, own, wanted in (
        (0.0, 4.0, None),  # quiet
        (0.0, 3.8, None),  # a little beside
        (0.0, 3.2, 3),  # one core is fought for
        (0.0, 3.0, None),  # and left to the other
        (0.1, 0.4, 1),  # everything is busy
        (0.0, 0.0, None),
        (3.0, 1.0, 4),  # quiet again
    ):
        machine.second(idle, own)
        assert governor.look() == wanted


def test_it_looks_a_few_times_a_second(monkeypatch):
    machine = Machine(monkeypatch)
    governor = Governor(2)
    machine.now, machine.own_all = 0.1, 0.0
    assert governor.look() is None
    machine.now = 0.3
    assert governor.look() == 1


def test_where_nothing_is_known_the_number_stays(monkeypatch):
    monkeypatch.setattr(contention, "idle_seconds", lambda: None)
    governor = Governor(8)
    governor._at -= 10
    assert (governor.look(), governor.n) == (None, 8)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/stat")
def test_idle_time_grows_no_faster_than_there_are_cpus():
    first, started = contention.idle_seconds(), os.times().elapsed
    while os.times().elapsed - started < 0.2:
        pass
    grown = contention.idle_seconds() - first
    assert 0 <= grown <= (os.times().elapsed - started + 0.1) * len(os.sched_getaffinity(0))


def test_a_wanted_number_of_threads_stays(stories, monkeypatch):
    said = []
    with Engine.open(stories, n_ctx=64) as free, Engine.open(stories, n_ctx=64, threads=1) as wanted:
        monkeypatch.setattr(free.lib, "llama_set_n_threads", lambda _ctx, n, n_batch: said.append((n, n_batch)))
        monkeypatch.setattr(Governor, "look", lambda _: 1)
        wanted.share_cores()
        assert said == []
        free.share_cores()
        assert said == [(1, 1)]
