"""JSON as a careful reader takes it: no duplicate keys, no text that is not Unicode, no endless nesting.

Knows JSON. Does not know what the values mean.
"""

import json
from typing import Any, NoReturn

_MAX_DIGITS = 20  # of an unsigned 64-bit number


def loads(raw: bytes, *, whole_numbers: bool = False) -> Any:
    """Value of UTF-8 JSON. Raises ValueError with the reason.

    whole_numbers  refuse fractions, exponents, signs, NaN, and numbers beyond 64 bits
    """
    hooks: dict[str, Any] = {"object_pairs_hook": _object}
    if whole_numbers:
        hooks |= {"parse_int": _whole, "parse_float": _refuse_number, "parse_constant": _refuse_number}
    try:
        return json.loads(raw.decode("utf-8"), **hooks)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:100]!a} appears twice")
    return found


def _whole(digits: str) -> int:
    if digits.startswith("-") or len(digits) > _MAX_DIGITS:
        _refuse_number(digits)
    return int(digits)


def _refuse_number(digits: str) -> NoReturn:
    raise ValueError(f"number {digits[:40]} where a whole number from 0 is wanted")
