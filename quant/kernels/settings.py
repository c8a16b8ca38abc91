"""Numba, imported so that it takes settings from the environment alone.

By itself it also reads `.numba_config.yaml` of the working folder, with each compilation anew. That folder may be a
stranger's, and a setting can name another processor or a folder of pickled code.
"""

import os
import sys
import warnings

_yaml = sys.modules.get("yaml")
sys.modules["yaml"] = None  # type: ignore[assignment]  # `import yaml` fails, and the first reading does not happen
try:
    with warnings.catch_warnings(action="ignore"):
        from numba import config, njit
finally:
    sys.modules.pop("yaml")
    if _yaml is not None:
        sys.modules["yaml"] = _yaml

config._config_fname = os.devnull  # no regular file: never read
config.reload_config()

__all__ = ["config", "njit"]
