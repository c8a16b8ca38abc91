"""Python processes of our own: they import what this process would, and nothing from the working folder.

A working folder may be a downloaded model's, that is, a stranger's: its `json.py` must not run. Children start without
`site` and the environment's paths (`-I -S`), so that the standard library comes first; what else they may import is
given here. Does not know what the children do.
"""

import os
import sys
from pathlib import Path

import ggufkit

_START = "import sys; sys.path += filter(None, sys.argv.pop(1).split({sep!r})); from {module} import main; main()"


def python(module: str, *args: str) -> list[str]:
    """The command that calls `main()` of `module`, with `args` as its sys.argv[1:]."""
    code = _START.format(sep=os.pathsep, module=module)
    return [sys.executable, "-I", "-S", "-c", code, os.pathsep.join(import_path()), *args]


def import_path() -> list[str]:
    """Where this process finds modules, in order, without the working folder; our own packages' folder always."""
    own = str(Path(ggufkit.__file__).parents[1])
    found = [entry for entry in sys.path if entry == own or (Path(entry).is_absolute() and not _is_here(entry))]
    return found if own in found else [own, *found]


def _is_here(entry: str) -> bool:
    return Path(entry).exists() and os.path.samefile(entry, os.curdir)  # noqa: PTH121  works where the folder is deleted
