"""Why the installed llama.cpp dies of every model: trials in children, each with more of the library than the last.

Says what was tried, and one cause a line with what to do about it. Does not print.
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass

from ggufkit.runtime.probe import REBUILD, Trial, ending

# The C++ library inside, its symbols hidden: what Python brings cannot take its place. Some 0.23 MB a library. Not with
# -static-libgcc: exceptions that pass from one library to another then end the process.
LINK_ALONE = "-static-libstdc++ -Wl,--exclude-libs,ALL"
REBUILD_ALONE = f"CMAKE_ARGS='-DCMAKE_SHARED_LINKER_FLAGS=\"{LINK_ALONE}\"' {REBUILD}"

_WORDS = {
    Trial.LOAD: "loading the library",
    Trial.PLAIN: "a small model, plain kernels",
    Trial.VOCABULARY: "the same with a vocabulary",
    Trial.EXTRA: "the same with repacked and AMX kernels",
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was tried, as `what: how it ended`, and the causes that follow from it, each with advice."""

    tried: tuple[str, ...]
    causes: tuple[tuple[str, str], ...]
    loads: bool


def diagnose(run: Callable[[Trial], int]) -> Diagnosis:
    """Try step by step. `run` gives a trial's return code; see `probe.run_trial`."""
    codes: dict[Trial, int] = {}
    for trial in Trial:
        codes[trial] = run(trial)
        if codes[trial] and trial in (Trial.LOAD, Trial.PLAIN):
            break  # what contains it would die of the same
    tried = tuple(f"{_WORDS[trial]}: {ending(code) if code else 'runs'}" for trial, code in codes.items())
    causes = tuple(_cause(trial, code) for trial, code in codes.items() if code)
    return Diagnosis(tried, causes, loads=not codes[Trial.LOAD])


def _cause(trial: Trial, code: int) -> tuple[str, str]:
    how = f"{_WORDS[trial]} {ending(code)}"
    if code > 0:
        return f"{how}: this says nothing about the library", "Run it again when the machine is less busy."
    if -code == signal.SIGILL:
        return f"{how}: the library asks for an instruction that this processor lacks", f"Rebuild it here: {REBUILD}"
    match trial:
        case Trial.VOCABULARY:
            what = "numbers alone run: another C++ library in the process probably takes the place of its own"
            return f"{how}, {what}", f"Build it with its own inside: {REBUILD_ALONE}"
        case Trial.EXTRA:
            return (
                f"{how}, plain kernels run",
                "They are left out by themselves; a build without AMX is faster.",
            )
        case _:
            what = "neither AMX nor a vocabulary has a part in it"
            return f"{how}: {what}", f"Rebuild it here: {REBUILD} or name another build with LLAMA_CPP_LIB_PATH."
