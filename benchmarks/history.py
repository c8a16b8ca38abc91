"""Results of benchmarks, kept as one JSON file a kind of machine, and what moved since. Divergences at equal bytes are
in a file of their own, closeness.json: no machine decides them.

    {"schema": "ggufkit.bench/1", "date": "2026-01-31", "machine": {...}, "rows": [{"part": "convert", ...}, ...]}

A row is one figure of one model, ours and the peer's, run in turns on one machine: all runs are kept, so that a later
result can be told from noise.
"""

import datetime
import json
import os
import re
import statistics
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "history"
CLOSENESS = FOLDER / "closeness.json"
SCHEMA = "ggufkit.bench/1"


@dataclass(frozen=True)
class Row:
    """One figure. `ours` and `peer` hold a number for each run, in turns; `peer` is empty where there is none.

    better   "less" or "more"
    error    one standard error of ours / peer, where it is known
    nbytes   of our file, where the figure is one of a file
    machine  the kind that measured it, see `name`; `keep` fills it in
    """

    part: str
    model: str
    figure: str
    unit: str
    better: str
    ours: list[float]
    peer: list[float]
    command: str
    peer_command: str = ""
    note: str = ""
    error: float = 0.0
    nbytes: int = 0
    machine: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.part, self.model, self.figure

    @property
    def ratio(self) -> float | None:
        """How many times better ours is, median of the runs in turns; None without a peer."""
        if not self.peer:
            return None
        pairs = zip(self.ours, self.peer, strict=True)
        return statistics.median(b / a if self.better == "less" else a / b for a, b in pairs)


def machine() -> dict[str, Any]:
    """What decides speed here, and versions."""
    from importlib.metadata import version

    from ggufkit.runtime.machine import choose_threads, cpu, memory

    packages = ("ggufkit", "llama-cpp-python", "numpy", "numba")
    return {
        "processor": cpu().model,
        "vectors": _vectors(cpu().flags),
        "threads": choose_threads().n,
        "memory_gib": round(memory().total / 2**30),
        "system": os.uname().sysname,
        "versions": {name: version(name) for name in packages},
    }


def _vectors(flags: Collection[str]) -> str:
    """The widest instructions: processors of one name differ in them, and by half the speed."""
    known = {"avx512f": "AVX-512", "avx2": "AVX2"}
    return next((said for flag, said in known.items() if flag in flags), "")


def name(kind: dict[str, Any]) -> str:
    """What a kind of machine is called: amd-epyc-avx2-2-threads."""
    said = f"{kind['processor']} {kind['vectors']} {kind['threads']} threads"
    return re.sub(r"[^a-z0-9]+", "-", said.lower()).strip("-")


def path(kind: dict[str, Any], folder: Path = FOLDER) -> Path:
    return folder / f"{name(kind)}.json"


def measured() -> list[Row]:
    """Rows of closeness, and of the machine that was measured last."""
    machines = [file for file in FOLDER.glob("*.json") if file != CLOSENESS]
    return [*read(CLOSENESS), *(read(max(machines, key=measured_on)) if machines else [])]


def read(file: Path) -> list[Row]:
    return [Row(**row) for row in json.loads(file.read_text())["rows"]] if file.exists() else []


def measured_on(file: Path) -> str:
    """Day of the last measurement in the file, as 2026-01-31."""
    return str(json.loads(file.read_text())["date"])


def keep(file: Path, kind: dict[str, Any], new: list[Row]) -> list[Row]:
    """Write `new` over the rows of the same figures; the rows that they replace."""
    old = {row.key: row for row in read(file)}
    replaced = [old[row.key] for row in new if row.key in old]
    rows = list((old | {row.key: replace(row, machine=name(kind)) for row in new}).values())
    file.parent.mkdir(parents=True, exist_ok=True)
    today = datetime.date.today().isoformat()
    kept = {"schema": SCHEMA, "date": today, "machine": kind, "rows": [asdict(row) for row in rows]}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(kept, indent=1))
    part.rename(file)
    return replaced


def moved(old: Row, new: Row) -> str | None:
    """A line where the ratio to the peer (without one, the figure) left the range of the runs before; else None."""
    before, now = _values(old), _values(new)
    if not before or not now or min(before) <= statistics.median(now) <= max(before):
        return None
    if min(now) <= statistics.median(before) <= max(now):
        return None
    a, b = statistics.median(before), statistics.median(now)
    return f"{new.model} {new.part}, {new.figure}: {a:.3g} -> {b:.3g} ({'times the peer' if new.peer else new.unit})"


def _values(row: Row) -> list[float]:
    if not row.peer:
        return row.ours
    return [b / a if row.better == "less" else a / b for a, b in zip(row.ours, row.peer, strict=True)]
