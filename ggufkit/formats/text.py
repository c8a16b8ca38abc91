"""Texts to measure on: files that users name, and the ones that ship with the package.

Knows UTF-8 and where the shipped texts lie. Does not know tokens.
"""

import importlib.resources
from pathlib import Path

from ggufkit.errors import InputError, UsageError
from ggufkit.formats.files import checked_size, shown

CALIBRATION_TEXT, EVALUATION_TEXT = "calibration.txt", "evaluation-prose.txt"  # read where no text is named
SHIPPED_TEXTS = (CALIBRATION_TEXT, EVALUATION_TEXT, "evaluation-code.txt")
MAX_TEXT_NBYTES = 1 << 30


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
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{shown(str(path))}: byte {error.start} is not UTF-8. Save the text as UTF-8, or pass another one."
        ) from error
