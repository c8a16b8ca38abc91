"""Text that is not ours, made fit to be shown: names, metadata, templates, tokens and messages of strangers.

What could steer a terminal, turn the direction of reading, end a line or speak to a runner is written out: ESC as
`\\x1b`, RIGHT-TO-LEFT OVERRIDE as `\\u202e`. One function for every surface. Does not know where the text is shown.
"""

import dataclasses
import re
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeVar

T = TypeVar("T")

# C0 and C1 controls, DEL; marks, embeddings, overrides and isolates of direction; separators of lines; what is no
# character: surrogates, tags, noncharacters, a byte-order mark within
_UNSAFE = (
    r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff"
    r"\ud800-\udfff\U000e0000-\U000e007f"
)
_SHORT = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}
_ANY = re.compile(f"[{_UNSAFE}]")
_ANY_BUT_LINES = re.compile(rf"(?![\n\t])[{_UNSAFE}]")
# a line that GitHub's runner takes for a command: ::error::, ##[group]
_COMMAND = re.compile(r"^(\s*)(:(?=:)|#(?=#\[))", re.MULTILINE)


def printable(text: str, *, lines: bool = False) -> str:
    """`text` with every unsafe character written out; `lines` keeps line breaks and tabs."""
    return (_ANY_BUT_LINES if lines else _ANY).sub(_escape, text)


def for_log(text: str) -> str:
    """Lines for a terminal or the log of a runner: printable, and none of them a command to the runner."""
    return _COMMAND.sub(lambda m: f"{m[1]}\\x{ord(m[2]):02x}", printable(text, lines=True))


def for_json(text: str) -> str:
    """A JSON document with unsafe characters as JSON writes them, which does not change its meaning."""
    return _ANY_BUT_LINES.sub(lambda m: "".join(f"\\u{unit:04x}" for unit in _utf16(m[0])), text)


def cleaned(value: T, *, lines: bool = False) -> T:
    """A result with every text in it printable: what a view that people read makes of it first."""
    return _cleaned(value, lines)  # type: ignore[no-any-return]


def _cleaned(value: Any, lines: bool) -> Any:
    made: Any = value
    match value:
        case Enum():
            pass
        case str():
            made = printable(value, lines=lines)
        case PurePath():
            made = type(value)(printable(str(value)))
        case dict():
            made = {_cleaned(key, lines): _cleaned(item, lines) for key, item in value.items()}
        case list():
            made = [_cleaned(item, lines) for item in value]
        case tuple():
            items = [_cleaned(item, lines) for item in value]
            made = type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: _cleaned(getattr(value, f.name), lines) for f in dataclasses.fields(value) if f.init}
            made = dataclasses.replace(value, **fields)
    return made


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] in _SHORT:
        return _SHORT[match[0]]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _utf16(char: str) -> list[int]:
    raw = char.encode("utf-16-be", errors="surrogatepass")
    return [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]


class AnswerFilter:
    """What a model writes, piece by piece, for a terminal: text, line breaks and tabs; control sequences are dropped.

    A sequence may be spread over pieces. One that does not end is dropped as far as it goes, 64 characters at most.
    """

    _SEQUENCE = re.compile(
        r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, the cursor
        r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS: titles, clipboards
        r"|\x1b[ -/]+[0-~]|\x1b[0-OQ-WYZ\\`-~]"  # the short ones
    )
    _MOST = 64

    def __init__(self) -> None:
        self._held = ""

    def push(self, piece: str) -> str:
        """The part of `piece`, and of what was held back, that may be shown now."""
        text = self._SEQUENCE.sub("", self._held + piece)
        begins = (m.start() for m in re.finditer("[\x1b\x90\x98\x9b\x9d-\x9f]", text))
        self._held = next((text[at:] for at in begins if len(text) - at <= self._MOST), "")
        return _ANY_BUT_LINES.sub("", text[: len(text) - len(self._held)])
