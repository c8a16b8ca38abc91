"""What a gate asks for: metrics with limits, how sure it must be, how much text it may read. As a value and as TOML.

    alpha = 0.05          # chance of passing what is beyond a limit, and of failing what is within all of them
    chunks = 100          # of text at most; undecided then is inconclusive
    seed = 0              # of the order in which chunks are read
    ignore = ["type"]     # kinds of findings of `ggufkit diff`, or globs of keys and tensors, that may differ

    [limits]
    ln_ppl_ratio = 0.02   # at most
    same_top = 0.88       # at least
    kld_p99 = 0.6         # 99 % of the tokens diverge by no more

Knows which metrics there are and which way each limit points. Does not know how they are measured.
"""

import tomllib
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from ggufkit.differences.structure import Finding
from ggufkit.errors import InputError
from ggufkit.formats.nearest import meant, unknown
from ggufkit.formats.text import read_utf8

_MAX_NBYTES = 1 << 20
MAX_CHUNKS = 100_000


class Metric(NamedTuple):
    """at_least: the limit is from below. lowest, highest: what a limit may be."""

    title: str
    at_least: bool = False
    lowest: float = 0.0
    highest: float = float("inf")


METRICS = {
    "ln_ppl_ratio": Metric("ln(PPL / PPL of the base)", lowest=-10.0, highest=100.0),
    "kld_mean": Metric("mean KL divergence", lowest=1e-9),
    "kld_p90": Metric("KL divergence, 90 % of tokens within", lowest=1e-9),
    "kld_p95": Metric("KL divergence, 95 % of tokens within", lowest=1e-9),
    "kld_p99": Metric("KL divergence, 99 % of tokens within", lowest=1e-9),
    "kld_p999": Metric("KL divergence, 99.9 % of tokens within", lowest=1e-9),
    "same_top": Metric("same likeliest token", at_least=True, lowest=1e-9, highest=1 - 1e-9),
    "dp_rms": Metric("RMS Δp of the text's tokens", lowest=1e-9, highest=1.0),
    "nbytes": Metric("bytes of the file", lowest=1.0),
    "bpw": Metric("bits a weight", lowest=0.1),
}
SIZES = ("nbytes", "bpw")

DEFAULT_LIMITS = {"ln_ppl_ratio": 0.02, "kld_mean": 0.05, "kld_p99": 0.6, "same_top": 0.88}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """alpha, chunks, seed, ignore and limits as in the module's example."""

    alpha: float = 0.05
    chunks: int = 100
    seed: int = 0
    ignore: tuple[str, ...] = ()
    limits: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_LIMITS))

    def tolerates(self, finding: Finding) -> bool:
        """Whether a finding may be."""
        return any(finding.kind == one or fnmatchcase(finding.where, one) for one in self.ignore)


def read_config(path: Path) -> GateConfig:
    """The config in a TOML file. Raises InputError naming the line, or the key and what it may be."""
    return parse_config(read_utf8(path, _MAX_NBYTES, InputError), path.name)


def parse_config(text: str, where: str) -> GateConfig:
    """The config in `text`; `where` begins every message."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{where}: {error}. See the TOML format at https://toml.io.") from error
    known = [one.name for one in fields(GateConfig)]
    for key in table:
        if key not in known:
            raise InputError(f"{where}: {unknown('key', key, known)}")
    given: dict[str, Any] = {}
    if "alpha" in table:
        given["alpha"] = _number(where, "alpha", table["alpha"], 1e-6, 0.5)
    for key, lowest, highest in (("chunks", 2, MAX_CHUNKS), ("seed", 0, 2**32 - 1)):
        if key in table:
            given[key] = _whole(where, key, table[key], lowest, highest)
    if "ignore" in table:
        given["ignore"] = _texts(where, "ignore", table["ignore"])
    if "limits" in table:
        given["limits"] = parse_limits(where, table["limits"])
    return GateConfig(**given)


def parse_limits(where: str, table: Any) -> dict[str, float]:
    """Limits by metric, each within what it may be; `where` begins every message. Raises InputError."""
    if not isinstance(table, dict):
        raise InputError(f"{where}: limits is {table!r}, wanted a table of metrics: [limits]")
    for key in table:
        if key not in METRICS:
            raise InputError(f"{where}: unknown metric limits.{key}. {meant(key, METRICS)}")
    return {
        key: _number(where, f"limits.{key}", value, METRICS[key].lowest, METRICS[key].highest)
        for key, value in table.items()
    }


def _number(where: str, key: str, value: Any, lowest: float, highest: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not isfinite(value) or not lowest <= value <= highest:
        raise InputError(f"{where}: {key} is {value!r}, wanted a number from {lowest:g} to {highest:g}")
    return float(value)


def _whole(where: str, key: str, value: Any, lowest: int, highest: int) -> int:
    if type(value) is not int or not lowest <= value <= highest:
        raise InputError(f"{where}: {key} is {value!r}, wanted a whole number from {lowest} to {highest}")
    return value


def _texts(where: str, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InputError(f"{where}: {key} is {value!r}, wanted a list of texts")
    return tuple(value)
