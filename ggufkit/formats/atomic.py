"""Small outputs that are complete or not there: a temporary file beside the target, fsync, rename.

For outputs of many gigabytes that can be resumed see `ggufkit.formats.partial`.
"""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from ggufkit.errors import OutputError


def require_writable(path: Path, keep: Iterable[Path] = ()) -> None:
    """Raise OutputError, before long work, where `write_atomic(path)` would fail or replace one of `keep`."""
    problem = ""
    if path.is_dir():
        problem = "it is a folder"
    elif not path.parent.is_dir():
        problem = "its folder does not exist"
    elif not os.access(path.parent, os.W_OK):
        problem = "its folder is read-only"
    elif path.exists() and any(one.exists() and path.samefile(one) for one in keep):
        problem = "it is what is to be read"
    if problem:
        raise OutputError(f"{path}: cannot be written: {problem}. Choose another place.")


def write_atomic(path: Path, chunks: Iterable[bytes]) -> None:
    """Write `chunks` to `path` in one step; what was there before stays until then. Raises OutputError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as out:
            for chunk in chunks:
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}. Choose another place.") from error
    finally:
        temporary.unlink(missing_ok=True)
