"""A terminal to talk to a command on: what it shows, waited for; what a person types."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>]|\x1b\][^\x07]*\x07|\r")


class Terminal:
    """`ggufkit ARGS` on a terminal of `columns`. Close it; `with` does."""

    def __init__(self, *args: object, columns: int = 80, **env: str) -> None:
        self.raw = b""
        self._seen = 0
        command = [sys.executable, "-m", "ggufkit", *map(str, args)]
        self.pid, self._handle = pty.fork()
        if not self.pid:
            os.chdir(ROOT)
            os.execve(command[0], command, {**os.environ, "TERM": "xterm", "COLUMNS": "", "LINES": "", **env})
        fcntl.ioctl(self._handle, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self._handle)

    @property
    def shown(self) -> str:
        return _ESCAPES.sub(b"", self.raw).decode("utf-8", errors="replace")

    def wait_for(self, text: str, seconds: float = 60.0) -> str:
        """What has been shown since the last wait, up to `text`."""
        until = time.monotonic() + seconds
        while text not in self.shown[self._seen :]:
            assert time.monotonic() < until, f"{text!r} is not shown: {self.shown[self._seen :]!r}"
            if not self._read():
                assert text in self.shown[self._seen :], f"it ended without {text!r}: {self.shown!r}"
        end = self.shown.index(text, self._seen) + len(text)
        found, self._seen = self.shown[self._seen : end], end
        return found

    def type(self, text: str) -> None:
        os.write(self._handle, text.encode())

    def exit_code(self, seconds: float = 60.0) -> int:
        """Wait for the end."""
        until = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < until, f"it does not end: {self.shown[-500:]!r}"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        if not select.select([self._handle], [], [], 0.5)[0]:
            return True
        try:
            piece = os.read(self._handle, 1 << 16)
        except OSError:  # the other side is closed
            return False
        self.raw += piece
        return bool(piece)
