"""Results as plain JSON values, and back from a file. Every other report is a view of the same objects.

Does not know layouts.
"""

import re
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from ggufkit.errors import InputError
from ggufkit.formats import strict_json
from ggufkit.formats.files import checked_size, shown
from ggufkit.reports.schemas import name_of
from ggufkit.workflows.gate import GateResult

_MAX_NBYTES = 256 << 20
# figures that views show by name
_SHOWN = ("kld_mean", "same_top", "ln_ppl_ratio")
_WORDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list"}


def as_dict(result: Any) -> dict[str, Any]:
    """A result for machines; `schema` says which and in which version (see `schemas.SCHEMAS`)."""
    fields: dict[str, Any] = plain(msgspec.to_builtins(result, str_keys=True, enc_hook=str))
    return {"schema": name_of(type(result))} | fields


def plain(value: Any) -> Any:
    """JSON has lists for tuples, and null for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def load(path: Path) -> GateResult:
    """What `ggufkit gate --json` wrote to `path`. Raises InputError for anything else."""
    if checked_size(path, InputError) > _MAX_NBYTES:
        raise InputError(f"{path} has more than {_MAX_NBYTES} bytes. Is it a result of ggufkit?")
    try:
        fields = strict_json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}. Pass what `ggufkit gate --json` wrote.") from error
    schema = fields.get("schema") if isinstance(fields, dict) else None
    if schema != name_of(GateResult):
        raise InputError(f"{path} has schema {schema!r:.80}, wanted {name_of(GateResult)}.")
    try:
        return parse(fields)
    except ValueError as error:
        raise InputError(
            f"{path}: {error}. The file was changed or cut; pass what `ggufkit gate --json` wrote."
        ) from error


def parse(fields: dict[str, Any]) -> GateResult:
    """The result in plain JSON values. Raises ValueError saying where and what is wrong."""
    try:
        result = msgspec.convert(fields, GateResult)
    except msgspec.ValidationError as error:
        raise ValueError(shown(_plainly(str(error)))) from error
    missing = [name for name in _SHOWN if result.comparison and name not in result.comparison.figures]
    if missing:
        raise ValueError(f"comparison.figures.{missing[0]} is missing")
    return result


def _plainly(problem: str) -> str:
    """msgspec's "Expected `float`, got `str` - at `$.checks[0].value`" in the words that our errors use."""
    what, _, where = problem.partition(" - at `$")
    where = where.strip(".`") or "the result"
    if match := re.fullmatch(r"Expected `(.+)`, got `(.+)`", what):
        wanted, got = (" or ".join(_WORDS.get(word, word) for word in side.split(" | ")) for side in match.groups())
        return f"{where} is {got}, wanted {wanted}"
    if match := re.fullmatch(r"Object missing required field `(.+)`", what):
        return f"{where}.{match[1]} is missing".removeprefix("the result.")
    return f"{where}: {what[:1].lower()}{what[1:]}"


def require_comparable(results: Sequence[GateResult]) -> None:
    """Raise InputError where results of gate do not stand side by side: another original, text or chunk length."""
    for result in results[1:]:
        for what, (first, first_id), (other, other_id) in _shared(results[0], result):
            if first_id != other_id:
                raise InputError(
                    f"{result.candidate.file} was measured with another {what} than "
                    f"{results[0].candidate.file}: {other} ({other_id}), not {first} ({first_id}). "
                    "Gate all on the same."
                )


def _shared(a: GateResult, b: GateResult) -> Iterator[tuple[str, tuple[str, object], tuple[str, object]]]:
    """What two results must share: what it is called, and its name and identity in each."""
    yield "original", (a.base.file, a.base.fingerprint[:12]), (b.base.file, b.base.fingerprint[:12])
    if a.comparison and b.comparison:
        first, other = a.comparison.text, b.comparison.text
        yield "text", (first.name, first.sha256[:12]), (other.name, other.sha256[:12])
        yield "chunk length", ("chunks", first.n_ctx), ("chunks", other.n_ctx)
