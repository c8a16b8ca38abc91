"""What is piped into `ggufkit run`: bytes of any encoding to text, said where something was lost."""

import codecs
import os
import select
import stat
import sys

from ggufkit.cli import console
from ggufkit.errors import InputError

MAX_NBYTES = 64 << 20
_SILENCE_S = 3.0
# longest mark first: UTF-16's little-endian mark begins UTF-32's
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read(*, beside_a_prompt: bool) -> str:
    """Text of standard input, "" for a terminal. Beside a prompt only what is a pipe, a file or a socket is read.

    Raises InputError for input that is not text, or too much of it.
    """
    stream = sys.stdin
    if stream.isatty() or (beside_a_prompt and not _holds_data()):
        return ""
    _say_that_it_waits()
    raw = stream.buffer.read(MAX_NBYTES + 1)
    if len(raw) > MAX_NBYTES:
        raise InputError(f"standard input holds more than {MAX_NBYTES >> 20} MiB. Pipe less text in.")
    return as_text(raw)


def as_text(raw: bytes) -> str:
    """The text of `raw`: by its byte-order mark, else UTF-8; what cannot be decoded is replaced, and that is said."""
    mark, encoding = next(((mark, name) for mark, name in _MARKS if raw.startswith(mark)), (b"", "utf-8"))
    raw = raw.removeprefix(mark)
    if encoding == "utf-8" and b"\0" in raw:
        raise InputError(
            f"standard input is not text: its byte {raw.index(0)} is zero. Convert it first, for instance with iconv."
        )
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        console.say(
            f"standard input is not all {encoding.upper()}, first at byte {error.start + len(mark)}: what cannot be "
            "decoded is replaced by U+FFFD."
        )
        return raw.decode(encoding, errors="replace")


def _holds_data() -> bool:
    """False for /dev/null and other devices, and for what is closed; a stream without a number is a test's."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return not sys.stdin.closed
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def _say_that_it_waits() -> None:
    """A program that waits on an idle pipe looks like one that hangs."""
    try:
        ready, _, _ = select.select([sys.stdin.fileno()], [], [], _SILENCE_S)
    except (OSError, ValueError):
        return
    if not ready:
        console.say("waiting for standard input to end (< /dev/null where there is none)")
