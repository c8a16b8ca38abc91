"""Small outputs that are complete or not there: a temporary file beside the target, fsync, rename.

For outputs of many gigabytes that can be resumed see `ggufkit.formats.partial`; for whether a place will do see
`ggufkit.formats.outputs`.
"""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from ggufkit.errors import OutputError
from ggufkit.formats.outputs import beside, followed


def write_atomic(path: Path, chunks: Iterable[bytes]) -> None:
    """Write `chunks` to `path` in one step; what was there before stays until then. Raises OutputError."""
    temporary = beside(path, f".{secrets.token_hex(6)}.tmp", prefix=".")
    try:
        with temporary.open("xb") as out:
            for chunk in chunks:
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(followed(path))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}. Choose another place.") from error
    finally:
        temporary.unlink(missing_ok=True)
