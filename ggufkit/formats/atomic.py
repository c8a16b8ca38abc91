"""Small outputs that are complete or not there: a temporary file beside the target, fsync, rename.

For outputs of many gigabytes that can be resumed see `ggufkit.formats.partial`.
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ggufkit.errors import OutputError


def write_atomic(path: Path, chunks: Iterable[bytes]) -> None:
    """Write `chunks` to `path` in one step; what was there before stays until then. Raises OutputError."""
    temporary = ""
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(fd, "wb") as out:
            for chunk in chunks:
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).chmod(0o666 & ~_umask())  # mkstemp's 0600 is for secrets
        Path(temporary).replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}. Choose another place.") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
