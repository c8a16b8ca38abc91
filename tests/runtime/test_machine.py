"""Facts of the machine, read from planted files."""

import os

import pytest

from ggufkit.runtime import machine


@pytest.fixture
def planted(monkeypatch):
    """Files of /proc and /sys by path; everything else is absent."""
    files: dict[str, str] = {}
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine, "_read", lambda path: files.get(str(path), ""))
    monkeypatch.setattr(machine, "_cgroup_folders", lambda: [machine.Path("/cg")])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    return files


def _siblings(files, pairs):
    for number, text in pairs.items():
        files[f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"] = text


def test_hardware_threads_of_a_core_count_once(planted):
    _siblings(planted, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    assert machine.choose_threads().n == 2


def test_slow_cores_are_left_out(planted):
    planted["/sys/devices/cpu_core/cpus"] = "0-1\n"
    assert machine.choose_threads().n == 2


@pytest.mark.parametrize(("quota", "n"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1)])
def test_the_cgroup_share_bounds_threads(planted, quota, n):
    planted["/cg/cpu.max"] = quota
    assert machine.choose_threads().n == n


def test_the_older_cgroup_files_count_too(planted):
    planted |= {"/cg/cpu.cfs_quota_us": "200000\n", "/cg/cpu.cfs_period_us": "100000\n"}
    assert machine.cpu_share() == 2.0
    planted["/cg/cpu.cfs_quota_us"] = "-1\n"
    assert machine.cpu_share() is None


def test_memory_is_what_the_cgroup_leaves(planted):
    planted["/proc/meminfo"] = "MemTotal: 8192 kB\nMemAvailable: 6000 kB\n"
    assert machine.memory() == machine.MachineMemory(8192 << 10, 6000 << 10)
    planted |= {"/cg/memory.max": f"{4096 << 10}", "/cg/memory.current": f"{1024 << 10}"}
    assert machine.memory() == machine.MachineMemory(4096 << 10, 3072 << 10)


def test_amx_is_read_from_the_flags(planted):
    planted["/proc/cpuinfo"] = "model name\t: Sapphire\nflags\t\t: sse2 amx_tile amx_int8\n"
    machine.cpu.cache_clear()
    try:
        assert machine.cpu() == machine.Cpu("Sapphire", frozenset({"sse2", "amx_tile", "amx_int8"}))
        assert machine.cpu().has_amx
    finally:
        machine.cpu.cache_clear()


def test_the_cache_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine.cache_folder() == tmp_path / "ggufkit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert machine.cache_folder().is_absolute()


def test_the_cache_folder_is_never_the_current_one(monkeypatch):
    def nobody(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert machine.cache_folder().is_absolute()
    monkeypatch.setenv("HOME", "relative")
    assert machine.cache_folder().is_absolute()
