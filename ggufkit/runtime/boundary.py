"""A process boundary around llama.cpp: where the library ends the process, a sentence is left, and an exit code.

`cross` forks before anything heavy is loaded. The child goes on with the command; the parent waits, hands signals on,
and, where the child died of the library, says which file was in hand, what was being done and the library's last line.
A fork costs some milliseconds, and no model is loaded twice. Does not know models or commands.
"""

import mmap
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ALONE = "GGUFKIT_ONE_PROCESS"  # set it to debug: no fork
_OURS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)  # how code dies of itself
_HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FROM_KERNEL = 0x80  # siginfo si_code SI_KERNEL: the terminal's Ctrl-C, which the child gets as well
_NOTE_NBYTES = 8192
_DOING, _LEFT = 0, 1
_TAIL_NBYTES = 64 << 10
_PR_SET_PDEATHSIG = 1
_TELLING = re.compile(r"GGML_ASSERT|what\(\):|error|fail|abort|invalid", re.IGNORECASE)
_SOURCE_PLACE = re.compile(r"^\S*/(?=[\w.-]+\.(?:c|cpp|cc|cu|m|h|hpp):\d+: )")


@dataclass(frozen=True, slots=True)
class Death:
    """How the child ended without a word.

    number  the signal
    path    the file in hand, "" where none was opened
    doing   what was being done with it
    said    the library's last telling line, "" where it said nothing
    left    what was left to go on with, "" where nothing was
    """

    number: signal.Signals
    path: str
    doing: str
    said: str
    left: str


class _Notes:
    """What the child is doing and what it leaves, in memory that its parent sees: two texts that end in NUL."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 2 * _NOTE_NBYTES)

    def put(self, page: int, text: str) -> None:
        raw = os.fsencode(text)[: _NOTE_NBYTES - 1] + b"\0"
        at = page * _NOTE_NBYTES
        self._shared[at : at + len(raw)] = raw

    def get(self, page: int) -> str:
        return os.fsdecode(self._shared[page * _NOTE_NBYTES : (page + 1) * _NOTE_NBYTES].split(b"\0")[0])


_notes: _Notes | None = None
_noted: tuple[Path, str] | None = None


def note(path: Path, doing: str) -> None:
    """Say what llama.cpp is about to be asked: `doing` with the file at `path`. Nothing outside a boundary."""
    global _noted  # noqa: PLW0603  one child, one note
    if _notes is not None and _noted != (path, doing):
        _noted = (path, doing)
        _notes.put(_DOING, f"{doing}\n{path}")


def leave(words: str) -> None:
    """Say what a death would leave to go on with, "" for nothing. Nothing outside a boundary."""
    if _notes is not None:
        _notes.put(_LEFT, words)


def is_inside() -> bool:
    """Whether this is a child whose death somebody tells of."""
    return _notes is not None


@contextmanager
def mortal() -> Iterator[None]:
    """Ctrl-C ends this child at once: for a long call into the library that cannot be stopped, with nothing to lose.

    Nothing outside a boundary, and in other threads than the first.
    """
    if not is_inside() or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def cross() -> int | Death | None:
    """Fork. None in the child, which goes on; in the parent, once the child has ended, its exit code or its death.

    None, too, where no boundary can be: inside another one, without fork, or where GGUFKIT_ONE_PROCESS is set.
    """
    if is_inside() or not hasattr(os, "fork") or os.environ.get(ALONE):
        return None
    notes, said = _Notes(), _scratch()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    parent = os.getpid()
    with _held_back():
        pid = os.fork()
        if pid:
            status = _wait(pid)
    if not pid:
        _become_child(notes, said, parent)
        return None
    return _ending(status, notes, said)


def _become_child(notes: _Notes, said: int, parent: int) -> None:
    """What the library prints goes to `said`; Python's standard error stays what it was."""
    global _notes  # noqa: PLW0603
    _notes = notes
    _die_with(parent)
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # llama.cpp would start a debugger for its last words
    shown = os.fdopen(os.dup(2), "w", encoding=sys.stderr.encoding, errors=sys.stderr.errors, buffering=1)
    sys.stderr = shown
    os.dup2(said, 2)


def _die_with(parent: int) -> None:
    """A parent that is killed takes its child with it; Linux alone offers that."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it went before the call
        os._exit(1)


def _scratch() -> int:
    """A file without a name for what the library prints."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("ggufkit")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals wait in the parent until `_wait` takes them; the child has its own mask back before it goes on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_HANDED_ON, signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(pid: int) -> int:
    """The child's wait status. Signals sent to this process alone are handed on."""
    while True:
        if hasattr(signal, "sigwaitinfo"):
            info = signal.sigwaitinfo({*_HANDED_ON, signal.SIGCHLD})
            number, from_terminal = info.si_signo, info.si_code == _FROM_KERNEL
        else:
            number = signal.sigwait({*_HANDED_ON, signal.SIGCHLD})
            from_terminal = number == signal.SIGINT
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
        elif not from_terminal:
            os.kill(pid, number)


def _ending(status: int, notes: _Notes, said: int) -> int | Death:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    number = signal.Signals(-code)
    if number not in (*_OURS, signal.SIGKILL):  # asked to end from outside: so does this process
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    doing, _, path = notes.get(_DOING).partition("\n")
    size = os.fstat(said).st_size
    tail = os.pread(said, _TAIL_NBYTES, max(0, size - _TAIL_NBYTES)).decode("utf-8", errors="replace")
    return Death(number, path, doing, last_words(tail), notes.get(_LEFT))


def last_words(printed: str) -> str:
    """The line of what the library printed that tells most: the last one that names a fault, else the last one."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.search(line)]
    return _SOURCE_PLACE.sub("", (telling or lines or [""])[-1])
