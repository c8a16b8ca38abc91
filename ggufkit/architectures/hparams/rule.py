"""`Rule`: one entry of config.json as one GGUF key, and the makers of plain rules.

A rule takes the config and the name of the architecture and gives metadata entries.
"""

from collections.abc import Callable, Iterable

from gguf import GGUFValueType

from ggufkit.architectures.config import Config
from ggufkit.formats.checkpoint import read_json
from ggufkit.formats.model import KV

Rule = Callable[[Config, str], Iterable[KV]]
U32, F32 = GGUFValueType.UINT32, GGUFValueType.FLOAT32


def u32(key: str, *names: str, required: bool = False, low: int = 1) -> Rule:
    """GGUF `key` ← the first of `names` that config.json has; left out where it has none, unless required."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        value = config.get(*names)
        if value is not None or required:
            yield KV(key.format(arch=arch), U32, config.checked_integer(names[0], value, low=low))

    return rule


def f32(key: str, *names: str, required: bool = False) -> Rule:
    """As `u32`, for a float."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        value = config.get(*names)
        if value is not None or required:
            yield KV(key.format(arch=arch), F32, config.checked_number(names[0], value))

    return rule


def boolean(key: str, name: str, *, both: bool = False) -> Rule:
    """True where config.json says so; left out otherwise, or False where `both` are written."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        if config.flag(name) or both:
            yield KV(key.format(arch=arch), GGUFValueType.BOOL, config.flag(name))

    return rule


def fixed(key: str, type_: GGUFValueType, value: float | bool) -> Rule:
    """The same value for every model of the family."""
    return lambda config, arch: (KV(key.format(arch=arch), type_, value),)


def added_token(key: str, text: str) -> Rule:
    """The number of an added token that plays a role which no file of the tokenizer gives it; absent ones are left out.

    Source: _set_special_token in the converter's set_vocab of a family.
    """

    def rule(config: Config, arch: str) -> Iterable[KV]:
        tokenizer = read_json(config.folder, "tokenizer.json") or {}
        for token in tokenizer.get("added_tokens") or []:
            if isinstance(token, dict) and token.get("content") == text:
                yield KV(key, U32, config.checked_integer(text, token.get("id"), low=0))

    return rule
