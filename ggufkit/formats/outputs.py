"""Places to write to: every reason why one cannot be, found before any work and before anything is touched.

Also the names of what lies beside an output while it is made. Knows paths. Does not know what is written.
"""

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ggufkit.errors import OutputError
from ggufkit.formats.files import shown

_MAX_NAME_NBYTES = 255  # of ext4, APFS, NTFS and most others
_SPLIT = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")


def require_place(output: Path, *, read: Iterable[Path | None] = (), force: bool = False) -> None:
    """Raise OutputError where a file cannot be written at `output`, or must not be.

    read   files and checkpoint folders that are read: none of them is written to, by any path or link
    force  whether a file that is there may be replaced; never one that is not a regular file
    """
    target = followed(output)
    name, folder = shown(str(output)), target.parent
    if not os.path.isdir(folder):  # noqa: PTH112
        raise OutputError(f"{name}: {shown(str(folder))} is not a folder. Create it, or choose another place.")
    if len(os.fsencode(target.name)) > _MAX_NAME_NBYTES:
        raise OutputError(f"{name}: the name has more than {_MAX_NAME_NBYTES} bytes. Choose a shorter one.")
    status = _status(target)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{name} is a folder. Name a file in it.")
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise OutputError(f"{name} is not a regular file (a pipe or a device?). Name a file.")
    if status is not None and (same := _same_as(status, read)) is not None:
        called = "" if same == output else f" ({shown(str(same))})"
        raise OutputError(f"{name} is the input itself{called}. Choose another name.")
    if status is not None and not force:
        raise OutputError(f"{name} exists. Replace it with --force, or choose another name with -o.")
    _require_writable(folder, name)


def followed(output: Path) -> Path:
    """Where a link that somebody made for the output leads to: the link stays, what it names is written."""
    return Path(os.path.realpath(output)) if os.path.islink(output) else output  # noqa: PTH114  raises nothing


def beside(output: Path, suffix: str, prefix: str = "") -> Path:
    """`PREFIX NAME SUFFIX` in the output's folder; names that would be too long are cut and told apart by a digest."""
    target = followed(output)
    name = f"{prefix}{target.name}{suffix}"
    if len(os.fsencode(name)) > _MAX_NAME_NBYTES:
        kept = os.fsdecode(os.fsencode(target.name)[:150])
        name = f"{prefix}{kept}~{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]}{suffix}"
    return target.with_name(name)


def _require_writable(folder: Path, name: str) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"{name}: cannot be written to its folder: {error.strerror}. Choose another place."
        ) from error


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"{shown(str(path))}: cannot be written: {reason}. Choose another place.") from error


def _same_as(status: os.stat_result, read: Iterable[Path | None]) -> Path | None:
    """The input that is the very same file, whatever it is called."""
    for given in read:
        for path in _files_of(given):
            try:
                if os.path.samestat(status, path.stat()):
                    return path
            except OSError:
                continue
    return None


def _files_of(given: Path | None) -> Iterator[Path]:
    """Files that reading `given` may open: itself, what a checkpoint's folder holds, the parts of a split model."""
    if given is None:
        return
    try:
        if given.is_dir():
            yield from (path for path in given.iterdir() if path.suffix != ".gguf")
        elif match := _SPLIT.fullmatch(given.name):
            yield from (p for p in given.parent.iterdir() if (m := _SPLIT.fullmatch(p.name)) and m[1] == match[1])
        else:
            yield given
    except (OSError, ValueError):
        return
