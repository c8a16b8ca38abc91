"""Where benchmarks keep what takes long to fetch or to build."""

import os
from pathlib import Path


def kept(name: str, variable: str) -> Path:
    """The folder that `variable` names, else `name` among ggufkit's in the user's cache folder."""
    chosen = os.environ.get(variable)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else cache / "ggufkit" / name
