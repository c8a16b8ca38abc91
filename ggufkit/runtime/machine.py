"""Facts of this machine: processor, cores that may be used, memory that may be used, where caches go.

Knows /proc, /sys, cgroups and sysctl. Does not know llama.cpp or models.
"""

import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor as the kernel names it, and the features it offers."""

    model: str
    flags: frozenset[str]

    @property
    def has_amx(self) -> bool:
        return any(flag.startswith("amx") for flag in self.flags)


@dataclass(frozen=True, slots=True)
class ThreadChoice:
    """How many threads to compute with, and why."""

    n: int
    reason: str


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """Bytes this process may use: the machine's, or less where a cgroup says so."""

    total: int
    available: int


@cache
def cpu() -> Cpu:
    """This machine's processor. Flags are empty where the system does not tell them."""
    if sys.platform == "darwin":
        return Cpu(_sysctl("machdep.cpu.brand_string") or platform.machine(), frozenset())
    model, flags = "", ""
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        match key.strip():
            case "model name" if not model:
                model = value.strip()
            case "flags" | "Features" if not flags:
                flags = value
    return Cpu(model or platform.processor() or platform.machine(), frozenset(flags.split()))


def choose_threads() -> ThreadChoice:
    """Physical cores, of those this process may run on, within the cgroup's share of time."""
    if sys.platform == "darwin":
        fast = _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu")
        return ThreadChoice(int(fast or os.cpu_count() or 1), "performance cores")
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    fast_cores = allowed & _parse_cpu_list(_read("/sys/devices/cpu_core/cpus"))
    usable = fast_cores or allowed
    n_core = len({_siblings(n) for n in usable})
    reason = f"{n_core} physical cores of the {len(usable)} {'performance ' if fast_cores else ''}CPUs allowed"
    share = cpu_share()
    if share is not None and share < n_core:
        return ThreadChoice(max(1, int(share)), f"{reason}, cgroup gives {share:g} of them")
    return ThreadChoice(max(1, n_core), reason)


def cpu_share() -> float | None:
    """CPUs' worth of time that the cgroup grants, None where it sets no limit. Source: cgroups(7), cpu.max."""
    shares = []
    for folder in _cgroup_folders():
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
        if not quota:
            quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period):
            shares.append(int(quota) / int(period))
    return min(shares, default=None)


def memory() -> MachineMemory:
    """Memory of this machine within its cgroup's limit, in bytes."""
    if sys.platform == "darwin":
        total = int(_sysctl("hw.memsize") or 0)
        return MachineMemory(total, total * 3 // 4)  # macOS tells no honest figure for what is free
    fields = dict(line.partition(":")[::2] for line in _read("/proc/meminfo").splitlines())
    total = _kib(fields.get("MemTotal", ""))
    available = _kib(fields.get("MemAvailable", ""))
    for folder in _cgroup_folders():
        limit = _read(folder / "memory.max").strip() or _read(folder / "memory.limit_in_bytes").strip()
        used = _read(folder / "memory.current").strip() or _read(folder / "memory.usage_in_bytes").strip()
        if limit.isdigit() and 0 < int(limit) < total:
            total = int(limit)
            available = min(available, max(0, int(limit) - int(used or 0)))
    return MachineMemory(total, available)


def peak_rss() -> int:
    """Most bytes of memory this process held at once."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cache_folder() -> Path:
    """Where ggufkit remembers what it found out; not made here. XDG_CACHE_HOME wins everywhere."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base and Path(base).is_absolute():
        return Path(base) / "ggufkit"
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  Path.home() raises where the user has no home
    if not home.is_absolute():
        return Path(tempfile.gettempdir()) / f"ggufkit-{os.getuid()}"  # never the current folder
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "ggufkit"


def platform_name() -> str:
    """`Linux x86_64`, `Darwin arm64`."""
    return f"{platform.system()} {platform.machine()}"


def is_rosetta() -> bool:
    """Whether this is an Intel program translated on an Apple processor."""
    return sys.platform == "darwin" and _sysctl("sysctl.proc_translated") == "1"


def _cgroup_folders() -> list[Path]:
    """This process's cgroup folders and their parents, v2 and v1; inside a container the root is its own."""
    root = Path("/sys/fs/cgroup")
    folders = {root, root / "cpu", root / "memory"}
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        for base in {root, *(root / name for name in controllers.split(",") if name)}:
            place = base / path.lstrip("/")
            folders.update(folder for folder in (place, *place.parents) if folder.is_relative_to(root))
    return sorted(folder for folder in folders if folder.is_dir())


def _siblings(cpu_number: int) -> frozenset[int]:
    """Hardware threads that share a core with this one."""
    text = _read(f"/sys/devices/system/cpu/cpu{cpu_number}/topology/thread_siblings_list")
    return frozenset(_parse_cpu_list(text) or {cpu_number})


def _parse_cpu_list(text: str) -> set[int]:
    """`0-3,8` as a set of numbers."""
    found: set[int] = set()
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        if low.isdigit():
            found.update(range(int(low), int(high or low) + 1))
    return found


def _kib(text: str) -> int:
    number = text.split()
    return int(number[0]) * 1024 if number and number[0].isdigit() else 0


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
