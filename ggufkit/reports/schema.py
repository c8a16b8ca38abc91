"""Whether plain JSON values are what a dataclass becomes in `ggufkit.reports.result`: every field, of its type.

The dataclasses themselves are the schema, so the two cannot drift apart. Numbers that are not finite became null, so
null is taken where such a number is usual. Keys that a later version added are let be. Does not know what fields mean.
"""

import dataclasses
import types
import typing
from enum import Enum
from typing import Any

from ggufkit.differences.weights import TensorError
from ggufkit.formats.files import shown
from ggufkit.proof.figures import FigureRow
from ggufkit.proof.trial import Check

_MAY_BE_NULL = {
    Check: {"value", "low", "high", "limit"},
    FigureRow: {"se", "low", "high", "naive_se"},
    TensorError: {"error", "experts", "expected"},
}
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def problem(value: Any, kind: Any, where: str = "") -> str:
    """What is wrong with `value`, which should be a `kind`: where and what. Empty where nothing is."""
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        return _record_problem(value, kind, where)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        wanted = next(one for one in inner if one is not types.NoneType)
        return "" if value is None else problem(value, wanted, where)
    if origin in (tuple, list):
        return _list_problem(value, inner, where)
    if origin is dict:
        return _dict_problem(value, inner[1], where)
    return _scalar_problem(value, kind, where)


def _record_problem(value: Any, kind: Any, where: str) -> str:
    if not isinstance(value, dict):
        return _wrong(value, where, "an object")
    nullable = _MAY_BE_NULL.get(kind, set())
    for name, wanted in typing.get_type_hints(kind).items():
        path = f"{where}.{name}".removeprefix(".")
        if name not in value:
            return f"{path} is missing"
        if value[name] is None and name in nullable:
            continue
        items = [x for x in value[name] if x is not None] if name == "experts" and value[name] else value[name]
        if found := problem(items, wanted, path):
            return found
    return ""


def _dict_problem(value: Any, kind: Any, where: str) -> str:
    if not isinstance(value, dict):
        return _wrong(value, where, "an object")
    return _first(problem(item, kind, f"{where}.{key}") for key, item in value.items())


def _scalar_problem(value: Any, kind: type, where: str) -> str:
    if issubclass(kind, Enum):
        known = [one.value for one in kind]
        return "" if value in known else _wrong(value, where, f"one of {', '.join(map(str, known))}")
    taken = (int, float) if kind is float else kind
    is_fine = isinstance(value, taken) and (kind is bool or not isinstance(value, bool))
    return "" if is_fine else _wrong(value, where, _WORDS[kind])


def _list_problem(value: Any, inner: tuple[Any, ...], where: str) -> str:
    if not isinstance(value, list):
        return _wrong(value, where, "a list")
    is_uniform = len(inner) == 1 or inner[-1] is Ellipsis
    if not is_uniform and len(value) != len(inner):
        return _wrong(value, where, f"a list of {len(inner)}")
    kinds = [inner[0]] * len(value) if is_uniform else inner
    return _first(problem(item, k, f"{where}[{i}]") for i, (item, k) in enumerate(zip(value, kinds, strict=True)))


def _first(problems: Any) -> str:
    return next((one for one in problems if one), "")


def _wrong(value: Any, where: str, wanted: str) -> str:
    return f"{where} is {shown(str(value))}, wanted {wanted}"
