"""Commands that run models go behind a process boundary; where llama.cpp ends the process, a sentence remains."""

import signal
from collections.abc import Callable
from typing import Any

from ggufkit.errors import EngineError, GgufkitError

ENGINE_COMMANDS = ("run", "perplexity", "compare", "calibrate", "gate", "baseline", "quantize", "doctor")
_WORDS = {
    signal.SIGSEGV: "segmentation fault",
    signal.SIGABRT: "abort",
    signal.SIGILL: "illegal instruction",
    signal.SIGBUS: "bus error",
    signal.SIGFPE: "arithmetic fault",
}


def guarded(callback: Callable[..., Any]) -> Callable[..., Any]:
    """`callback`, run in a child; its exit code is this process's, its death an EngineError."""

    def call(**options: Any) -> Any:
        from ggufkit.runtime import boundary

        ended = boundary.cross()
        if ended is None:
            return callback(**options)
        if isinstance(ended, int):
            raise SystemExit(ended)
        raise _told(ended)

    return call


def _told(death: Any) -> GgufkitError:
    from ggufkit.formats.files import shown

    name = shown(death.path) or "llama.cpp's library"
    if death.number == signal.SIGKILL:
        error = EngineError(
            f"{name}: the process was killed from outside{_while(death)}; most often the memory ran out. "
            "Close other programs, or try a smaller --ctx."
        )
    else:
        word = f"{_WORDS[death.number]}, {death.number.name}"
        said = f": {shown(death.said)}" if death.said else " without a word."
        error = EngineError(f"{name} ends llama.cpp ({word}{_while(death)}){said}")
        error.add_note(_whose_fault(death))
    if death.left:
        error.add_note(death.left)
    return error


def _while(death: Any) -> str:
    return f" while {death.doing}" if death.doing else ""


def _whose_fault(death: Any) -> str:
    """Whether the library dies of a small model of ours as well."""
    from ggufkit.runtime import probe

    code = probe.run_trial(probe.Trial.VOCABULARY)
    if code == 0:
        return "A small model of ggufkit's own runs here, so it is this file, or what it asks of this build."
    return (
        f"A small model of ggufkit's own ends it, too ({probe.ending(code)}): the installed library is at fault. "
        "See `ggufkit doctor --probe`."
    )
