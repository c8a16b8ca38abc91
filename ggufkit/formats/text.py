"""Text in files: the one place where bytes become characters, and the texts to measure on that ship with the package.

Knows UTF-8, byte-order marks and where the shipped texts lie. Does not know tokens.
"""

import codecs
import importlib.resources
from pathlib import Path

from ggufkit.errors import InputError, UsageError
from ggufkit.formats.files import checked_size, read_small, shown

CALIBRATION_TEXT, EVALUATION_TEXT = "calibration.txt", "evaluation-prose.txt"  # read where no text is named
SHIPPED_TEXTS = (CALIBRATION_TEXT, EVALUATION_TEXT, "evaluation-code.txt")
MAX_TEXT_NBYTES = 1 << 30
_OTHER_MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32",
                codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}  # fmt: skip


def decoded(raw: bytes) -> str:
    """UTF-8 text without the byte-order mark that some editors put first. Raises ValueError with the reason."""
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        other = next((name for mark, name in _OTHER_MARKS.items() if raw.startswith(mark)), None)
        at = error.start + (len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0)
        raise ValueError(f"{other}, not UTF-8" if other else f"not UTF-8 at byte {at}") from error


def read_utf8(path: Path, max_nbytes: int, error: type[InputError]) -> str:
    """A small UTF-8 file that is meant to be read by people: recipe, config, template. Raises `error`."""
    raw = read_small(path, max_nbytes, error)
    try:
        return decoded(raw)
    except ValueError as cause:
        raise error(f"{shown(str(path))}: {cause}. Save it as UTF-8.") from cause


def shipped_text(name: str) -> str:
    """A text of `ggufkit/data/text`, its newlines as they stand. Raises UsageError, which lists the known names."""
    if name not in SHIPPED_TEXTS:
        raise UsageError(f"no text {name!r} ships with ggufkit. Known: {', '.join(SHIPPED_TEXTS)}")
    return importlib.resources.files("ggufkit").joinpath("data", "text", name).read_bytes().decode("utf-8")


def read_text(path: Path) -> str:
    """A UTF-8 file as it stands, newlines and all. Raises InputError for other encodings, empty or huge files."""
    nbytes = checked_size(path, InputError)
    if not 0 < nbytes <= MAX_TEXT_NBYTES:
        raise InputError(f"{shown(str(path))}: {nbytes} bytes, wanted 1 to {MAX_TEXT_NBYTES}. Pass a text file.")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{shown(str(path))}: {error.strerror}. Check the file's permissions.") from error
    try:
        return decoded(raw)
    except ValueError as error:
        raise InputError(f"{shown(str(path))}: {error}. Save the text as UTF-8, or pass another one.") from error
