"""Results of compare, diff and gate as plain JSON values, and back from a file. Every other report is a view of these.

Knows schema names and what JSON cannot say: numbers that are not finite become null. Does not know layouts.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError
from ggufkit.formats import strict_json
from ggufkit.formats.files import read_small
from ggufkit.proof.comparison import Comparison
from ggufkit.reports.schema import problem
from ggufkit.workflows.baseline import BaselineReport
from ggufkit.workflows.diff import DiffReport
from ggufkit.workflows.gate import GateResult

Result = dict[str, Any]

SCHEMAS = {
    Comparison: "ggufkit/compare@1",
    DiffReport: "ggufkit/diff@1",
    GateResult: "ggufkit/gate@1",
    BaselineReport: "ggufkit/baseline@1",
}
_MAX_NBYTES = 256 << 20
# figures that views show by name
_SHOWN = ("kld_mean", "same_top", "ln_ppl_ratio")


def as_dict(result: Comparison | DiffReport | GateResult | BaselineReport) -> Result:
    """The result for machines; `schema` says which and in which version."""
    plain: Result = _plain(result)
    return {"schema": SCHEMAS[type(result)]} | plain


def load(path: Path, *schemas: str) -> Result:
    """A result from a JSON file, of one of `schemas`. Raises InputError for anything else."""
    try:
        result = strict_json.loads(read_small(path, _MAX_NBYTES, InputError))
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}. Pass what `ggufkit gate --json` wrote.") from error
    schema = result.get("schema") if isinstance(result, dict) else None
    if schema not in schemas:
        raise InputError(f"{path} has schema {schema!r}, wanted {' or '.join(schemas)}.")
    kind = next(kind for kind, name in SCHEMAS.items() if name == schema)
    found = problem(result, kind) or _missing_figure(result)
    if found:
        raise InputError(f"{path}: {found}. The file was changed or cut; pass what `ggufkit gate --json` wrote.")
    return result  # type: ignore[no-any-return]  # a dict, seen above


def require_comparable(results: Sequence[Result]) -> None:
    """Raise InputError where results of gate do not stand side by side: another original, text or chunk length."""
    for result in results[1:]:
        for what, (first, first_id), (other, other_id) in _shared(results[0], result):
            if first_id != other_id:
                raise InputError(
                    f"{result['candidate']['file']} was measured with another {what} than "
                    f"{results[0]['candidate']['file']}: {other} ({other_id}), not {first} ({first_id}). "
                    "Gate all on the same."
                )


def _shared(a: Result, b: Result) -> Iterator[tuple[str, tuple[str, Any], tuple[str, Any]]]:
    """What two results must share: what it is called, and its name and identity in each."""
    first, other = (one["base"] for one in (a, b))
    yield "original", (first["file"], first["fingerprint"][:12]), (other["file"], other["fingerprint"][:12])
    if a["comparison"] and b["comparison"]:
        first, other = (one["comparison"]["text"] for one in (a, b))
        yield "text", (first["name"], first["sha256"][:12]), (other["name"], other["sha256"][:12])
        yield "chunk length", ("chunks", first["n_ctx"]), ("chunks", other["n_ctx"])


def _missing_figure(result: Result) -> str:
    figures = (result.get("comparison") or {}).get("figures")
    return next(
        (f"comparison.figures.{name} is missing" for name in _SHOWN if figures is not None and name not in figures), ""
    )


def _plain(value: Any) -> Any:  # noqa: PLR0911  one line a kind of value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
