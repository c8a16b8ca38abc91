"""Finds out, in a subprocess, whether llama.cpp's repacked and AMX kernels work on this machine, and remembers it.

On processors with AMX, GCC drops stores that a tile configuration needs and a quantized multiplication dies of a signal
(llama.cpp issues 20824 and 26954); a library built for another processor dies of SIGILL. Both kill the whole process,
so a child loads a tiny quantized model and decodes with it. Does not print; the verdict carries the line to show.
"""

import hashlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ggufkit.errors import EngineError
from ggufkit.runtime import child, library, machine

TIMEOUT_SECONDS = 60.0
_RULES = 2  # of judging: a verdict of other rules is not recalled
# How a child ends that says something about the library: well, with numbers that are not finite, or killed by what a
# bad instruction or a wrong store leads to. Every other end (no module, no time, no memory) says nothing.
_GOOD, _NOT_FINITE = 0, 3
_CRASHES = (signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP)
REBUILD = "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python==0.3.36"

# What llama_print_system_info calls a feature it was compiled for -> the kernel's flag for it.
FEATURES = {
    "SSE3": "pni", "SSSE3": "ssse3", "AVX": "avx", "AVX2": "avx2", "AVX_VNNI": "avx_vnni", "F16C": "f16c", "FMA": "fma",
    "BMI2": "bmi2", "AVX512": "avx512f", "AVX512_VBMI": "avx512vbmi", "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16", "AMX_INT8": "amx_int8",
}  # fmt: skip


class Kernels(StrEnum):
    """Which kernels may be used."""

    ALL = "all"
    PLAIN = "plain"  # use_extra_bufts off: no AMX, and no repacked kernels either
    NONE = "none"


class Trial(StrEnum):
    """What a child tries, each with more of the library than the one before."""

    LOAD = "load"  # the library alone
    PLAIN = "plain"  # a small model without a vocabulary, plain kernels
    VOCABULARY = "vocabulary"  # with one: regular expressions, the C++ library's locales
    EXTRA = "extra"  # repacked and AMX kernels


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe found.

    kernels     what may be used
    notice      one line for a person, empty where everything works
    probed      False where nothing suggested a probe, or the probe itself failed
    remembered  True where an earlier process found it out
    """

    kernels: Kernels
    notice: str = ""
    probed: bool = True
    remembered: bool = False


Runner = Callable[[bool], int]


def verdict(*, force: bool = False, runner: Runner | None = None, cache: Path | None = None) -> Verdict:
    """Which kernels work here. Asks a subprocess once for each library and processor, where there is reason to.

    force   probe now, whatever the processor and whatever is remembered
    runner  runs the probe with or without extra kernels; gives its return code, negative for a signal
    cache   the file that remembers, default in the user's cache folder
    """
    missing = missing_features(library.info().system_info, machine.cpu().flags)
    if missing:
        return Verdict(Kernels.NONE, _built_for_another(missing), probed=False)
    if not (force or suspected()):
        return Verdict(Kernels.ALL, probed=False)
    cache = cache or machine.cache_folder() / "probe.json"
    key = fingerprint()
    found = None if force else _recall(cache, key)
    if found is None:
        found = _probe(runner or run_child)
        if found.probed:
            _remember(cache, key, found)
    return found


def suspected() -> bool:
    """Whether the library was compiled with AMX kernels and the processor has them."""
    return machine.cpu().has_amx and "AMX_INT8 = 1" in library.info().system_info


def missing_features(system_info: str, flags: frozenset[str]) -> list[str]:
    """Instructions the library was compiled for that this processor lacks. Empty where the flags are unknown."""
    built = [name for name in FEATURES if f" {name} = 1" in f" {system_info}"]
    return [name for name in built if FEATURES[name] not in flags] if "sse2" in flags else []


def require(found: Verdict) -> bool:
    """Whether to load models with extra kernels. Raises EngineError where no kernel works."""
    if found.kernels is Kernels.NONE:
        raise EngineError(found.notice)
    return found.kernels is Kernels.ALL


def run_child(extra: bool, command: Sequence[str] | None = None) -> int:
    """Return code of the trial of kernels; see `run_trial`."""
    return run_trial(Trial.EXTRA if extra else Trial.PLAIN, command)


def run_trial(trial: Trial, command: Sequence[str] | None = None) -> int:
    """Return code of a trial in a child of its own; negative for the signal that killed it, 124 for too slow."""
    command = command or child.python("ggufkit.runtime.probe_model", trial)
    try:
        done = subprocess.run(
            command, timeout=TIMEOUT_SECONDS, check=False, stdin=subprocess.DEVNULL, capture_output=True
        )
    except subprocess.TimeoutExpired:
        return 124
    return done.returncode


def fingerprint() -> str:
    """Names the library's files (path, time, size) and the processor. Another build or machine has another one."""
    files = sorted(path for path in library.library_folder().iterdir() if path.is_file())
    facts = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]
    cpu = machine.cpu()
    return hashlib.sha256(json.dumps([_RULES, facts, cpu.model, sorted(cpu.flags)]).encode()).hexdigest()


def _probe(runner: Runner) -> Verdict:
    with_extra = runner(True)
    if with_extra == _GOOD:
        return Verdict(Kernels.ALL)
    plain = runner(False) if _tells(with_extra) else with_extra
    if not _tells(plain):
        return Verdict(
            Kernels.PLAIN,
            f"whether llama.cpp's AMX kernels work here was not found out, the trial {ending(plain)}: plain kernels "
            "are used this time, which are slower. `ggufkit doctor --probe` tries again.",
            probed=False,
        )
    if plain == _GOOD:
        return Verdict(
            Kernels.PLAIN,
            f"a trial of llama.cpp's AMX kernels {ending(with_extra)} on this machine: plain kernels are used, which "
            "are slower. `ggufkit doctor` says how to build llama-cpp-python without AMX.",
        )
    return Verdict(
        Kernels.NONE,
        f"a trial of the installed llama.cpp on a tiny model {ending(with_extra)}, with plain kernels it "
        f"{ending(plain)}. {_known(plain)}",
    )


def _known(plain: int) -> str:
    if -plain == signal.SIGILL:
        return f"It was probably built for another processor: rebuild it here: {REBUILD}"
    return "It dies without AMX, too. `ggufkit doctor --probe` tries step by step and says what is known."


def _tells(code: int) -> bool:
    return code in (_GOOD, _NOT_FINITE) or -code in _CRASHES


def ending(code: int) -> str:
    """In words how a child ended whose return code is not the one of a good end."""
    if code == 124:
        return f"did not answer within {TIMEOUT_SECONDS:g} s"
    if code < 0:
        return f"ended with {signal.Signals(-code).name}"
    return "computed no finite numbers" if code == _NOT_FINITE else f"ended with exit code {code}"


def _built_for_another(missing: list[str]) -> str:
    return (
        f"the installed llama.cpp was built for a processor with {', '.join(missing)}; this one "
        f"({machine.cpu().model}) lacks it and would stop with an illegal instruction. Rebuild it here: "
        f"{REBUILD}"
    )


def _recall(cache: Path, key: str) -> Verdict | None:
    """The remembered verdict, None where there is none or the file is not ours."""
    try:
        row = json.loads(cache.read_text())[key]
        return Verdict(Kernels(row["kernels"]), str(row["notice"]), remembered=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(cache: Path, key: str, found: Verdict) -> None:
    """Write the verdict beside the others, in one step. A cache that cannot be written is not an error."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        try:
            known = json.loads(cache.read_text())
        except (OSError, ValueError):
            known = {}
        rows = known if isinstance(known, dict) else {}
        rows[key] = {"kernels": found.kernels, "notice": found.notice}
        handle, name = tempfile.mkstemp(dir=cache.parent, prefix=cache.name)
        with os.fdopen(handle, "w") as file:
            json.dump(rows, file, indent=1)
        Path(name).replace(cache)
    except OSError:
        return
