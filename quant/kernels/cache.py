"""Where compiled kernels are kept: a folder named after the sources of all of them.

Numba recompiles a function when its own file changes, but not when a function that it calls from another file does;
with the sources in the folder's name an edit anywhere leads to a folder of its own. Does not import Numba.

The folder is NUMBA_CACHE_DIR where that is set, else `__pycache__` beside the sources, else the user's cache folder.
Where none of them can be written to, nothing is kept: the current folder is never used.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path

_SOURCES = Path(__file__).parent
_BESIDE = _SOURCES / "__pycache__"
_KEPT_S = 24 * 3600.0  # an older version of the sources may still be at work in another process


class CompiledAnewWarning(UserWarning):
    """No folder takes compiled code: it works, slowly."""


@cache
def cache_folder() -> Path | None:
    """The folder for these sources; None where compiled code cannot be kept."""
    name = f"ggufkit-{_sources_digest()}"
    for base in _candidates():
        if _is_writable(base / name):
            if base == _BESIDE:
                forget_others(base, name)
            return base / name
    warnings.warn(
        "compiled code cannot be kept, so each start compiles again, half a minute or more. Set NUMBA_CACHE_DIR to a "
        "folder that can be written to.",
        CompiledAnewWarning,
        stacklevel=2,
    )
    return None


def _candidates() -> list[Path]:
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        return [Path(chosen).absolute()]
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    with contextlib.suppress(RuntimeError):  # no HOME, and the system does not know the user
        users = users.expanduser()
    return [_BESIDE, users] if users.is_absolute() else [_BESIDE]


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for source in sorted(_SOURCES.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def forget_others(base: Path, name: str) -> None:
    """Remove what earlier versions of the sources left beside them."""
    for other in base.glob("ggufkit-*"):
        if other.name != name and time.time() - other.stat().st_mtime > _KEPT_S:
            shutil.rmtree(other, ignore_errors=True)
