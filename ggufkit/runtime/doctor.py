"""What `ggufkit doctor` reports: what was found on this machine, what was chosen, and what it costs.

Collects facts and judges them; printing is the command's job.
"""

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import ggufkit
from ggufkit.errors import EngineError
from ggufkit.runtime import library, machine, probe
from ggufkit.runtime.diagnosis import Diagnosis, diagnose
from ggufkit.runtime.probe import run_trial
from quant import waiting
from quant.kernels.cache import cache_folder

_TESTED = "0.3.36"
_REBUILD_AMX = (
    'CMAKE_ARGS=\'-DCMAKE_C_FLAGS="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" '
    '-DCMAKE_CXX_FLAGS="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"\' '
    "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python==0.3.36"
)
_LOW_DISK = 10 << 30
_INTERESTING = frozenset(probe.FEATURES.values()) | {"amx_tile", "amx_bf16", "asimddp", "i8mm", "sve", "sve2", "bf16"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that costs speed or will fail, and what to do about it."""

    what: str
    advice: str


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """Facts of this installation and machine. Bytes are whole numbers; empty strings mean "not known".

    engine       version of llama-cpp-python, empty where it is not installed
    libllama     the library's file
    cpu_flags    features that matter to quantized kernels
    amx          what is known of AMX here, and what it costs
    kernels      all, plain or none: see `probe.Kernels`
    tried        with `--probe`: each trial and how it ended
    threads      chosen for computing, and why
    waiting      what makes threads sleep or spin while they wait, and who set it
    gpu_offload  whether llama.cpp was built with Metal or another GPU backend
    """

    ggufkit: str
    python: str
    engine: str
    libllama: str
    built_for: str
    platform: str
    cpu: str
    cpu_flags: tuple[str, ...]
    amx: str
    kernels: str
    tried: tuple[str, ...]
    threads: int
    threads_reason: str
    waiting: str
    memory_total: int
    memory_available: int
    disk_free: int
    disk_path: str
    gpu_offload: bool
    numba_cache: str
    cache_folder: str
    problems: tuple[Problem, ...]


def examine(*, probe: bool = False, folder: Path | None = None) -> DoctorReport:
    """Look at this machine. Never raises for what is missing: that is a problem to report.

    probe   try the quantized kernels now, in a process of its own
    folder  whose disk to look at, default the current one
    """
    cpu, threads, ram = machine.cpu(), machine.choose_threads(), machine.memory()
    trials = diagnose(run_trial) if probe else None
    engine, found, problems = _examine_engine(trials)
    folder, gone = _standing_in(folder)
    problems += gone
    disk_free, compiled = shutil.disk_usage(folder).free, cache_folder()
    problems += _machine_problems(ram, disk_free, folder)
    if compiled is None:
        problems.append(
            Problem(
                "compiled encoders cannot be kept: every start compiles them again, up to a minute",
                "Set NUMBA_CACHE_DIR to a folder that can be written to.",
            )
        )
    return DoctorReport(
        ggufkit=ggufkit.__version__,
        python=f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}",
        engine=engine.package_version if engine else "",
        libllama=str(engine.libllama or "") if engine else "",
        built_for=_built_for(engine),
        platform=machine.platform_name(),
        cpu=cpu.model,
        cpu_flags=tuple(sorted(cpu.flags & _INTERESTING)),
        amx=_amx(cpu, found),
        kernels=found.kernels if found else "",
        tried=trials.tried if trials else (),
        threads=threads.n,
        threads_reason=threads.reason,
        waiting=waiting.make_cheap(),
        memory_total=ram.total,
        memory_available=ram.available,
        disk_free=disk_free,
        disk_path=str(folder),
        gpu_offload=engine.gpu_offload if engine else False,
        numba_cache=str(compiled or "nowhere"),
        cache_folder=str(machine.cache_folder()),
        problems=tuple(problems),
    )


def _standing_in(folder: Path | None) -> tuple[Path, list[Problem]]:
    """`folder`, else the current one, else where temporary files go."""
    try:
        return folder or Path.cwd(), []
    except OSError:
        problem = Problem(
            "the current folder was deleted", "Change to one that exists; names relative to it lead nowhere."
        )
        return Path(tempfile.gettempdir()), [problem]


def _examine_engine(
    trials: Diagnosis | None,
) -> tuple[library.LibraryInfo | None, probe.Verdict | None, list[Problem]]:
    causes = [Problem(*cause) for cause in trials.causes] if trials else []
    if trials and not trials.loads:
        return None, None, causes
    try:
        engine = library.info()
    except EngineError as error:
        return (
            None,
            None,
            [Problem(str(error), "Converting and inspecting headers work without it; quantizing and running do not.")],
        )
    found = probe.verdict(force=trials is not None)
    problems = causes
    if engine.package_version != _TESTED:
        what = f"llama-cpp-python {engine.package_version} is installed, ggufkit is tested with {_TESTED}"
        problems.append(Problem(what, f"pip install 'llama-cpp-python=={_TESTED}'"))
    if found.kernels is not probe.Kernels.ALL:
        problems.append(Problem(found.notice, _REBUILD_AMX if machine.cpu().has_amx else ""))
    return engine, found, problems


def _machine_problems(ram: machine.MachineMemory, disk_free: int, folder: Path) -> list[Problem]:
    problems = []
    if disk_free < _LOW_DISK:
        what = f"{disk_free / 2**30:.1f} GiB are free on the disk of {folder}"
        problems.append(Problem(what, "A 7B model at Q4_K_M takes 4.1 GiB, Mixtral 8x7B 26.5 GiB."))
    if ram.total and ram.available < ram.total // 8:
        what = f"{ram.available / 2**30:.1f} of {ram.total / 2**30:.1f} GiB of memory are free"
        problems.append(Problem(what, "Close other programs before you run a large model."))
    if machine.is_rosetta():
        what = "this Python runs under Rosetta, as an Intel program on an Apple processor"
        problems.append(Problem(what, "Install an arm64 Python: the engine is several times faster with it."))
    return problems


def _amx(cpu: machine.Cpu, found: probe.Verdict | None) -> str:
    if not cpu.has_amx:
        return "this processor has no AMX: nothing to avoid"
    if found is None:
        return "this processor has AMX; the engine is not installed"
    if not found.probed and found.kernels is probe.Kernels.PLAIN:
        return f"this processor has AMX; {found.notice}"
    if not found.probed:
        return "this processor has AMX; the engine was built without it, and keeps every other fast kernel"
    if found.kernels is probe.Kernels.ALL:
        return "this processor has AMX, and the engine's AMX kernels were tried and work"
    return (
        "the engine's AMX kernels crash here, so extra buffer types are off; that also switches off the repacked AVX "
        "kernels, so prompts and perplexity take longer. Building llama-cpp-python without AMX brings those back"
    )


def _built_for(engine: library.LibraryInfo | None) -> str:
    """Features of the build, as llama.cpp lists them: `AVX2 FMA …`."""
    if engine is None:
        return ""
    return " ".join(
        part.split("=")[0].strip().split(" : ")[-1] for part in engine.system_info.split("|") if "= 1" in part
    )
