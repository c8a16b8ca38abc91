"""JSON as a careful reader takes it: keys that mean one thing, text that is Unicode, no endless nesting.

Knows JSON. Does not know what the values mean.
"""

import json
from typing import Any, NoReturn

from ggufkit.formats.text import decoded

_MAX_DIGITS = 20  # of an unsigned 64-bit number


def loads(raw: bytes, *, header: bool = False, whole_floats: bool = False) -> Any:
    """Value of UTF-8 JSON; a byte-order mark is passed over, but not in a header. Raises ValueError with the reason.

    A key that appears twice with different values is an error; with the same value it passes, people's configs do that.
    whole_floats  512.0 is the whole number 512: some tools write every number so
    header        for headers made by machines: no key twice at all, and no number but whole ones from 0 within 64 bits
    """
    hooks: dict[str, Any] = {"object_pairs_hook": _object}
    if whole_floats:
        hooks["parse_float"] = _number
    if header:
        hooks = {"object_pairs_hook": _strict_object, "parse_int": _whole}
        hooks |= {"parse_float": _refuse_number, "parse_constant": _refuse_number}
    try:
        return json.loads(raw.decode("utf-8") if header else decoded(raw), **hooks)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        for key, value in pairs:
            if value != found[key]:
                raise ValueError(f"key {key[:100]!a} appears twice with different values")
    return found


def _strict_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key[:100]!a} appears twice")
        found[key] = value
    return found


def _number(digits: str) -> int | float:
    value = float(digits)
    return int(value) if value.is_integer() else value


def _whole(digits: str) -> int:
    if digits.startswith("-") or len(digits) > _MAX_DIGITS:
        _refuse_number(digits)
    return int(digits)


def _refuse_number(digits: str) -> NoReturn:
    raise ValueError(f"number {digits[:40]} where a whole number from 0 is wanted")
