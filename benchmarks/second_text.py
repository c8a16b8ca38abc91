"""A second calibration text, which every Python brings: its reference manual, and as much of its modules' source."""

import sysconfig
from pathlib import Path
from pydoc_data.topics import topics

NAME = "Python's manual"


def second_text() -> str:
    manual = "\n".join(topics[name] for name in sorted(topics))
    source = ""
    for module in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if len(source) >= len(manual):
            break
        source += module.read_text(encoding="utf-8", errors="replace")
    return manual + source[: len(manual)]
