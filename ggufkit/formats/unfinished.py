"""What an unfinished output leaves beside its place: the bytes, their journal, what else was found out.

Knows the names of these files and who may continue or remove them. `PartialFile` writes them.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from pathlib import Path

from ggufkit.errors import InputError, OutputError
from ggufkit.formats.files import read_small
from ggufkit.formats.outputs import beside
from ggufkit.formats.shared_place import Range

_MAX_JOURNAL_NBYTES = 1 << 30


def partial_path(final: Path) -> Path:
    """Where the bytes lie until they are complete."""
    return beside(final, ".partial")


def journal_path(final: Path) -> Path:
    """Where finished ranges are recorded."""
    return beside(final, ".partial.journal")


def kept_path(final: Path) -> Path:
    """A folder for what else an unfinished run has found out and the next one need not find out again."""
    return beside(final, ".partial.kept")


def new_journal_path(final: Path) -> Path:
    return beside(final, ".partial.new")


def token_path(final: Path) -> Path:
    """What workers of other machines read to see that they share the folder, and that the run is not over."""
    return beside(final, ".partial.token")


def check_unfinished(final: Path, *, resume: bool) -> None:
    """Raise OutputError where an earlier run was not finished and is not to be continued."""
    partial, journal = partial_path(final), journal_path(final)
    if resume:
        return
    require_idle(final)
    if partial.exists() and journal.exists():
        done = sum(row.nbytes for row in read_journal(journal)[1])
        found = f"{partial} holds an unfinished run ({done} of {partial.stat().st_size} bytes)"
    elif kept_path(final).exists():
        found = f"{kept_path(final)} holds what an unfinished run has found out"
    else:
        return
    raise OutputError(f"{found}. Continue it with --resume, or start again with --restart.")


def discard_unfinished(final: Path) -> None:
    """Remove what an earlier run left unfinished, if anything. Raises OutputError where that run is still at work."""
    discard_bytes(final)
    shutil.rmtree(kept_path(final), ignore_errors=True)


def discard_bytes(final: Path) -> None:
    require_idle(final)
    for path in (partial_path(final), journal_path(final), new_journal_path(final), token_path(final)):
        path.unlink(missing_ok=True)


def require_idle(final: Path) -> None:
    """Raise OutputError where another run is writing that output now."""
    partial = partial_path(final)
    if partial.is_file():
        fd = os.open(partial, os.O_RDONLY)
        try:
            lock(fd, partial)
        finally:
            os.close(fd)


def lock(fd: int, path: Path) -> None:
    """Hold `fd` until it is closed: two runs never write one output. Raises OutputError where another has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            return  # some network disks have no locks
        raise OutputError(
            f"{path} is being written by another run. Wait for it, or choose another name with -o."
        ) from error


def taken_nbytes(*paths: Path) -> int:
    """Bytes of the disk that these files take, and those in these folders; nothing for what is not there."""
    total = 0
    for path in paths:
        for file in [path, *path.rglob("*")]:
            with contextlib.suppress(OSError):  # gone meanwhile
                total += file.stat().st_blocks * 512
    return total


def nearest_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(one for one in (path, *path.absolute().parents) if one.exists())


def check_space(folder: Path, nbytes: int, what: str) -> None:
    """Raise OutputError where `folder` has less than `nbytes` free."""
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise OutputError(
            f"{folder}: {what} needs {nbytes} bytes, {free} are free. Free some space or choose another place with -o."
        )


def read_journal(path: Path) -> tuple[str, list[Range]]:
    """Identity and ranges; a torn last line is ignored."""
    identity, rows = "", []
    raw = read_small(path, _MAX_JOURNAL_NBYTES, InputError)
    for line in raw.decode("ascii", errors="replace").splitlines(keepends=True):
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                identity = str(json.loads(line).get("identity", ""))
            continue
        fields = line.split()
        if line.endswith("\n") and len(fields) == 3 and all(f.isdigit() for f in fields):
            rows.append(Range(*map(int, fields)))
    return identity, rows
