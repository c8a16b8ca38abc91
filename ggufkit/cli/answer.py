"""`AnswerWriter`: an answer on stdout as it comes, wrapped at words on a terminal, byte for byte everywhere else.

Knows columns. Does not know models.
"""

import contextlib
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from ggufkit.formats.printable import AnswerFilter

_PARTS = re.compile(r"(\n|[^\S\n]+)")
_TAB = 8


class AnswerWriter:
    """Writes pieces of one answer; on a terminal a word is shown when it is complete, on a new line if need be."""

    def __init__(self) -> None:
        self._wraps = sys.stdout.isatty()
        self._filter = AnswerFilter()
        self._column = 0
        self._word = ""

    def write(self, text: str) -> None:
        """Some more of the answer."""
        if self._wraps:
            *complete, self._word = _PARTS.split(self._word + self._filter.push(text))
            for part in complete:
                self._put(part)
            if _width(self._word) > _columns() // 2:  # no word: a path, or a script without spaces
                self._put_characters()
        else:
            sys.stdout.write(text)
        sys.stdout.flush()

    def end(self) -> None:
        """The rest, and the end of the line."""
        if self._wraps:
            self._put_characters()
        sys.stdout.write("\n")
        sys.stdout.flush()

    def _put_characters(self) -> None:
        """The word in hand; of a script without spaces, character by character."""
        parts = self._word if _width(self._word) > len(self._word) else [self._word]
        self._word = ""
        for part in parts:
            self._put(part)

    def _put(self, part: str) -> None:
        """One word, or the white space between two."""
        if part == "\n":
            self._column = 0
        elif "\t" in part:
            self._column += len(part.expandtabs(_TAB))
        elif self._column + _width(part) > _columns():
            if part.isspace():
                return  # the next word begins a line anyway
            if self._column:
                sys.stdout.write("\n")
            self._column = _width(part) % _columns()
        else:
            self._column += _width(part)
        sys.stdout.write(part)


@contextmanager
def typing_is_not_shown() -> Iterator[None]:
    """While the model answers, what is typed waits for the next prompt instead of landing in the answer."""
    try:
        import termios

        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
    except (ImportError, OSError, ValueError, termios.error):
        yield  # no terminal
        return
    quiet = [*before[:3], before[3] & ~(termios.ECHO | termios.ICANON), *before[4:]]
    termios.tcsetattr(handle, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(handle, termios.TCSANOW, before)


def _columns() -> int:
    return max(20, shutil.get_terminal_size().columns)


def _width(text: str) -> int:
    """Columns of `text`: two for East Asian wide characters, none for marks that combine."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) or char == "\u200d" else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )
