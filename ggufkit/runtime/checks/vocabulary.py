"""Vocabularies that fail an assertion of llama.cpp's tokenizers. Source: llama-vocab.cpp, load and tokenize."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gguf

from ggufkit.formats.files import shown
from ggufkit.formats.gguf_cursor import GgufArray
from ggufkit.formats.model import KV

_BYTE = int(gguf.TokenType.BYTE)
_NO_BYTES = ("bert", "rwkv")  # llama-vocab.cpp token_to_byte: a byte token is a fatal error there
_UNTOUCHED = ("none", "no_vocab")


class _Special(NamedTuple):
    """A token that is put beside a text.

    flag     the key that asks for it
    asked    tokenizers that ask for it without that key
    always   tokenizers that ask for it whatever the key says
    default  its number by tokenizer, where the file does not name an existing one; other tokenizers have none
    """

    key: str
    flag: str
    asked: tuple[str, ...]
    always: tuple[str, ...]
    default: Mapping[str, int]


_PAIRS = {"gpt2": 11, "hybriddna": 11, "whitespace": 11}  # byte-pair encoding
_ADDING = ("llama", "bert", "t5", "plamo2", "gemma4", *_PAIRS)  # tokenizers that put tokens beside a text
_SPECIALS = (
    _Special(
        "bos_token_id",
        "add_bos_token",
        ("llama",),
        ("bert", "gemma4"),
        {"llama": 1, "bert": 101, "plamo2": 1, **_PAIRS},
    ),
    _Special("eos_token_id", "add_eos_token", ("t5",), (), {"llama": 2, "t5": 1, "plamo2": 2, **_PAIRS}),
    _Special("seperator_token_id", "add_sep_token", (), ("bert",), {"bert": 102}),
)


def vocabulary_problems(metadata: Mapping[str, KV]) -> Iterator[str]:
    """Sentences on the tokens. A file without tokens passes; tokenizing with it is an error later."""
    model, tokens = _value(metadata, "model"), _value(metadata, "tokens")
    if model in _UNTOUCHED or not isinstance(model, str) or not _is_strings(metadata.get("tokenizer.ggml.tokens")):
        return
    repeated = _repeated(tokens)
    if repeated is not None:
        first, second, text = repeated
        yield f"tokens {first} and {second} are both {shown(text)!r}, and every token must be another text"
    types = _value(metadata, "token_type")
    if model in _NO_BYTES and isinstance(types, GgufArray | list | tuple) and _BYTE in types:
        yield f"tokenizer.ggml.model is {model}, which has no byte tokens, but tokenizer.ggml.token_type lists some"
    for special in _SPECIALS:
        yield from _missing_special(metadata, special, model, len(tokens))


class Spelling(NamedTuple):
    """The texts of a SentencePiece vocabulary that lacks some bytes: what it cannot spell ends llama.cpp."""

    texts: frozenset[bytes]

    def unspeakable(self, text: str) -> str | None:
        """The first character that has no token and whose bytes have none, None where all have."""
        for char in dict.fromkeys(" " + text):
            raw = (char if char != " " else "\u2581").encode("utf-8", errors="replace")
            if raw not in self.texts and not all(self._has_byte(byte) for byte in raw):
                return char
        return None

    def _has_byte(self, byte: int) -> bool:
        return b"<0x%02X>" % byte in self.texts or bytes([byte]) in self.texts


def incomplete_spelling(metadata: Mapping[str, KV]) -> Spelling | None:
    """What a text is to be looked through with before it is tokenized; None where every byte has a token."""
    tokens = _value(metadata, "tokens")
    if _value(metadata, "model") != "llama" or not isinstance(tokens, GgufArray):
        return None
    found = Spelling(frozenset(tokens.raw_items()))
    return None if all(found._has_byte(byte) for byte in range(256)) else found


def _missing_special(metadata: Mapping[str, KV], special: _Special, model: str, n: int) -> Iterator[str]:
    flag = _value(metadata, special.flag)
    asked = model in special.always or (model in special.asked if flag is None else bool(flag))
    if not asked or model not in _ADDING or (special.flag == "add_sep_token" and model != "bert"):
        return
    number = _value(metadata, special.key)
    if not (type(number) is int and 0 <= number < n) and special.default.get(model, n) >= n:
        yield (
            f"tokenizer.ggml.{special.flag} asks for a token that tokenizer.ggml.{special.key} does not name "
            f"among the {n} tokens"
        )


def _repeated(tokens: Any) -> tuple[int, int, str] | None:
    """The first token that was there before: both numbers and the text. Empty texts stand for their own number."""
    texts = tokens.raw_items() if isinstance(tokens, GgufArray) else [str(token).encode() for token in tokens]
    named = [text or b"[EMPTY_%d]" % i for i, text in enumerate(texts)]
    if len(set(named)) == len(named):
        return None
    seen: dict[bytes, int] = {}
    for i, text in enumerate(named):
        if (first := seen.setdefault(text, i)) != i:
            return first, i, text.decode(errors="replace")
    return None


def _is_strings(kv: KV | None) -> bool:
    return kv is not None and kv.type is gguf.GGUFValueType.ARRAY and kv.item_type is gguf.GGUFValueType.STRING


def _value(metadata: Mapping[str, KV], name: str) -> Any:
    kv = metadata.get(f"tokenizer.ggml.{name}")
    return None if kv is None else kv.value
