"""The front matter of README.md: a stranger's YAML, as far as it says in words what a model is called and where it
comes from. What cannot be read, or is not a word where one is expected, is left out with a note: it is never needed.

Knows the keys that gguf-py's `Metadata` reads and what it expects of each. Does not know what becomes of them.
"""

import reprlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # gguf's own reader of cards is built on it

from ggufkit.errors import CheckpointError
from ggufkit.formats.files import is_local, is_present, shown
from ggufkit.formats.text import read_utf8

CARD = "README.md"
MAX_CARD_NBYTES = 4 << 20  # cards with thousands of benchmark results in them have 3 MB
_GENERAL = ("name", "author", "version", "organization", "description", "finetune", "basename", "size_label")
_PLACES = ("url", "doi", "uuid", "repo_url")
_WORDS = frozenset({
    *_GENERAL, *_PLACES, *(f"model_{key}" for key in (*_GENERAL, *_PLACES)),
    "model_creator", "model_type", "license_name", "license_link",
})  # fmt: skip
_LISTS = frozenset({"license", "tags", "pipeline_tag", "language", "languages"})  # a word, or several
_MODELS = frozenset({
    "base_model", "base_models", "base_model_sources", "datasets", "dataset", "dataset_sources",
})  # fmt: skip


class _Other:
    """A number, date or truth value as it is written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the first is ten times as fast
    """YAML without what multiplies (`<<` copies entries) and without conversions that can fail or take long."""

    def flatten_mapping(self, node: Any) -> None:
        """Merge keys stay keys, which nothing reads."""


for _tag in ("int", "float", "timestamp", "bool", "binary", "merge", "value"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", lambda loader, node: _Other(str(node.value)))


def read_card(folder: Path, notes: list[str]) -> dict[str, Any]:
    """Known entries of the card: words, lists of words, and dicts of words for models and datasets.

    notes  gets a line for everything that is left out, or one for the whole card
    """
    path = folder / CARD
    if not is_present(path):
        return {}
    try:
        front = front_matter(read_utf8(path, MAX_CARD_NBYTES, CheckpointError))
        card = yaml.load(front, _Loader)
    except CheckpointError as error:
        notes.append(f"{error} It is left out.")
        return {}
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        notes.append(f"{CARD}: its front matter is not YAML ({_brief(error)}); it is left out")
        return {}
    if card is None:
        return {}
    if not isinstance(card, dict):
        notes.append(f"{CARD}: its front matter is a {type(card).__name__}, wanted keys with values; it is left out")
        return {}
    return _checked(card, notes)


def front_matter(text: str) -> str:
    """What stands between the first line, `---`, and the next such line; "" where there is none."""
    first, *rest = text.splitlines() or [""]
    if first.rstrip() != "---":
        return ""
    lines = []
    for line in rest:
        if line.rstrip() == "---":
            break
        lines.append(line.replace("\t", "  "))  # not YAML, but published cards have tabs
    return "\n".join(lines)


def is_word(value: Any) -> bool:
    """Text that a file can hold: YAML and JSON can spell half a UTF-16 pair."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def brief(value: Any) -> str:
    """`value` in a few words, however deep or long it is: aliases make a page of YAML a library."""
    return shown(reprlib.repr(value))


def _checked(card: Mapping[Any, Any], notes: list[str]) -> dict[str, Any]:
    """The entries that may be used; unknown ones are left out without a note."""
    out: dict[str, Any] = {}
    for keys, choose in ((_WORDS, _word), (_LISTS, _words), (_MODELS, _origins)):
        for key in card:
            if key in keys and card[key] is not None:
                value = choose(card[key], partial(_leave_out, notes, key))
                if value:
                    out[key] = value
    return {key: out[key] for key in card if key in out}


def _leave_out(notes: list[str], key: str, found: Any) -> None:
    wanted = "the name of a model on the hub" if isinstance(found, str) and is_word(found) else "words"
    notes.append(f"{CARD}: {key} is {brief(found)}, wanted {wanted}; it is left out")


Complain = Callable[[Any], None]


def _word(value: Any, complain: Complain) -> Any:
    if isinstance(value, _Other) and value.text == "no":
        return "no"  # Norwegian is a language, not a falsehood
    return value if is_word(value) else complain(value)


def _words(value: Any, complain: Complain) -> Any:
    if not isinstance(value, list):
        return _word(value, complain)
    words = [_word(each, complain) for each in value if each is not None]
    return [word for word in words if word is not None]


def _origins(value: Any, complain: Complain) -> Any:
    found = [_origin(each, complain) for each in (value if isinstance(value, list) else [value]) if each is not None]
    return [each for each in found if each]


def _origin(value: Any, complain: Complain) -> Any:
    """A name or an address as it stands; of a dict, the known entries that are words."""
    if isinstance(value, dict):
        known = {key: value[key] for key in (*_GENERAL, *_PLACES) if value.get(key) is not None}
        words = {key: _word(each, complain) for key, each in known.items()}
        return {key: word for key, word in words.items() if word is not None}
    if not is_word(value) or is_local(value):
        return complain(value)
    return value


def _brief(error: Exception) -> str:
    """The first line of a YAML error with its place; its excerpts have many lines."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
    return shown(f"{what}, line {mark.line + 2}" if mark else str(what))
