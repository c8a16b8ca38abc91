"""`Recipe`: which tensor gets which type, as a value and as TOML. A mixture or one type, and rules that override it.

    name = "experts-low"            # the file's name where it is not given
    base = "Q4_K_M"                 # a mixture; or default = "Q4_K", one type for every matrix

    [[rules]]                       # the last rule that matches decides; one that matches nothing is an error
    match = "blk.*.ffn_*_exps.*"    # glob over the whole name; or regex, found anywhere in it
    layers = "4-27"
    type = "Q3_K"
    reason = "the middle layers bear it"

Knows names, layers and roles. Does not know shapes or bytes: whether a type fits is seen when a plan is made.
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ggufkit.errors import RecipeError, UsageError
from ggufkit.formats.nearest import nearest, unknown
from ggufkit.formats.text import read_utf8
from ggufkit.recipes.mixtures import MIXTURES, mixture
from ggufkit.recipes.quantizable import Role, layer_of, role_of
from quant import TYPE_NAMES, QuantType, quant_type

_MAX_NBYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class RecipeRule:
    """One rule: every condition that is given must hold; at least one is given.

    type    of the tensors it matches
    match   glob over the whole GGUF name: "blk.*.attn_v.weight"
    regex   regular expression found anywhere in the GGUF name
    layers  ranges of layers: "0-3,31"
    role    a part of the model: "ffn_down"
    reason  printed in the plan
    """

    type: str
    match: str = ""
    regex: str = ""
    layers: str = ""
    role: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        _known_type(self.type, str(self))
        if not (self.match or self.regex or self.layers or self.role):
            raise RecipeError(f"{self} matches everything. Give it match, regex, layers or role, or set default")
        if self.role and self.role not in list(Role):
            raise RecipeError(f"{self}: {unknown('role', self.role, Role)}")
        _layer_ranges(self.layers)
        try:
            re.compile(self.regex)
        except re.error as error:
            raise RecipeError(f"{self}: the regular expression does not compile: {error}") from error

    def matches(self, name: str) -> bool:
        """Whether the tensor of that GGUF name is meant."""
        return (
            (not self.match or fnmatchcase(name, self.match))
            and (not self.regex or re.search(self.regex, name) is not None)
            and (not self.layers or any(low <= layer_of(name) <= high for low, high in _layer_ranges(self.layers)))
            and (not self.role or role_of(name) == self.role)
        )

    def __str__(self) -> str:
        fields = {"match": self.match, "regex": self.regex, "layers": self.layers, "role": self.role}
        shown = ", ".join(f"{key} = {value!r}" for key, value in fields.items() if value)
        return f"rule ({shown or 'without a condition'}) -> {self.type}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Types for a whole model: `base`, a mixture, or `default`, one type for all; then rules, the last match wins.

    name   shown in the plan and stored in the file
    """

    name: str
    base: str = ""
    default: str = ""
    rules: tuple[RecipeRule, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.base) == bool(self.default):
            raise RecipeError(f"recipe {self.name!r} needs one of base (a mixture) and default (a type)")
        if self.default:
            _known_type(self.default, f"recipe {self.name!r}, default")
        else:
            mixture(self.base)

    @property
    def file_type(self) -> int:
        """llama.cpp's number for general.file_type: of the base, or of the mixture closest to the default."""
        return mixture(self.base or self.default).ftype

    def deciding(self, name: str) -> RecipeRule | None:
        """The rule that decides for a tensor: the last that matches."""
        return next((rule for rule in reversed(self.rules) if rule.matches(name)), None)

    def to_toml(self) -> str:
        """The text that `parse_recipe` reads back to an equal recipe."""
        lines = _lines({"name": self.name, "base": self.base, "default": self.default})
        for rule in self.rules:
            values = {key: getattr(rule, key) for key in ("match", "regex", "layers", "role", "type", "reason")}
            lines += ["", "[[rules]]", *_lines(values)]
        return "\n".join(lines) + "\n"


def named(name: str) -> Recipe:
    """The recipe that is a mixture and nothing else. Raises UsageError, which lists the known mixtures."""
    row = mixture(name)
    return Recipe(name=row.name, base=row.name)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file. Raises RecipeError with the line, or the key and the known ones."""
    return parse_recipe(read_utf8(path, _MAX_NBYTES, RecipeError), path.name)


def parse_recipe(text: str, where: str) -> Recipe:
    """The recipe in `text`; `where` begins every message and, without its ending, names a recipe without a name."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where} is not TOML: {error}. Is it a recipe?") from error
    rules = table.pop("rules", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise RecipeError(f"{where}: rules are tables. Begin each with [[rules]]")
    _check_table(table, ("name", "base", "default"), where)
    for number, rule in enumerate(rules, 1):
        _check_table(rule, tuple(field.name for field in fields(RecipeRule)), f"{where}, rule {number}")
        if "type" not in rule:
            raise RecipeError(f'{where}, rule {number} has no type. Write type = "Q6_K"')
    try:
        return Recipe(**{"name": Path(where).stem, **table}, rules=tuple(RecipeRule(**rule) for rule in rules))
    except (RecipeError, UsageError) as error:
        raise RecipeError(f"{where}: {error}") from error


def _check_table(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key, value in table.items():
        if key not in known:
            raise RecipeError(f"{where}: {unknown('key', key, known)}")
        if not isinstance(value, str):
            raise RecipeError(f"{where}: {key} is {value!r}, wanted text in quotes")


def _lines(values: Mapping[str, str]) -> list[str]:
    # JSON's escapes are TOML's, except DEL, which TOML wants escaped too
    return [f"{key} = {json.dumps(v, ensure_ascii=False)}".replace("\x7f", "\\u007f") for key, v in values.items() if v]


def check_rules_match(recipe: Recipe, names: Sequence[str], kept: Sequence[str]) -> None:
    """Every rule must match one of `names`, the tensors that may be quantized; `kept` are those that may not.

    Raises RecipeError naming the first rule that does not.
    """
    for rule in recipe.rules:
        if any(rule.matches(name) for name in names):
            continue
        only_kept = [name for name in kept if rule.matches(name)]
        if only_kept:
            raise RecipeError(
                f"recipe {recipe.name!r}: {rule} matches only tensors that are never quantized, {only_kept[0]} among "
                "them (one row, norms, routers). Take the rule out."
            )
        raise RecipeError(f"recipe {recipe.name!r}: {rule} matches no tensor. {_advice(rule, names)}")


def _advice(rule: RecipeRule, names: Sequence[str]) -> str:
    """What a rule that matches nothing probably meant."""
    anywhere = [layer_of(name) for name in names if rule.layers and replace(rule, layers="0-999999").matches(name)]
    if anywhere:
        return f"Such tensors are in layers {min(anywhere)} to {max(anywhere)}"
    near = nearest(rule.match, dict.fromkeys(re.sub(r"^blk\.\d+\.", "blk.*.", name) for name in names))
    meant = f". Did you mean {' or '.join(near)}?" if rule.match and near else ""
    return f"Names look like {', '.join(list(names)[:3])}{meant}"


def _known_type(name: str, where: str) -> QuantType:
    if name.upper() in TYPE_NAMES:
        return quant_type(name)
    row = next((row for row in MIXTURES if row.name == name.upper()), None)
    if row:
        known = ", ".join(TYPE_NAMES)
        raise RecipeError(
            f"{where}: unknown type {name!r}. Known: {known}. {row.name} is a mixture, {row.default} a type"
        )
    raise RecipeError(f"{where}: {unknown('type', name, TYPE_NAMES)}")


def _layer_ranges(layers: str) -> list[tuple[int, int]]:
    """ "0-3,31" to [(0, 3), (31, 31)]. Raises RecipeError where the text is something else."""
    ranges = []
    for part in filter(None, layers.split(",")):
        match = re.fullmatch(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise RecipeError(f'layers = {layers!r} is not a list of layers. Write it like "0-3,31"')
        ranges.append((int(match[1]), int(match[2] or match[1])))
    return ranges
