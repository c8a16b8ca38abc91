"""Metadata, names and shapes of two made-up models: what differs is named, with its weight and what it does."""

import hashlib
import json
from typing import Any

import gguf
import pytest

from ggufkit.differences.structure import (
    KINDS,
    Finding,
    Severity,
    Structure,
    compare_structure,
    stored,
    structure_of,
)
from ggufkit.formats.model import KV, Hparams, Model

T = gguf.GGUFValueType


TOKENS = "tokenizer.ggml.tokens"


def differing(base: dict[str, Any], candidate: dict[str, Any]) -> list[Finding]:
    """What differs between metadata; lists stand for arrays, of which a structure keeps a digest as well."""
    one, two = (
        Structure(
            "llama",
            {key: repr(value) if isinstance(value, list) else value for key, value in metadata.items()},
            {},
            {key: value for key, value in metadata.items() if isinstance(value, list)},
        )
        for metadata in (base, candidate)
    )
    return list(compare_structure(one, two))


def test_missing_extra_and_misshapen_tensors_are_named() -> None:
    base = Structure("llama", {}, {"token_embd.weight": (4, 8), "a": (2, 8), "b": (2, 8)}, {})
    candidate = Structure(
        "llama", {}, {"token_embd.weight": (4, 8), "b": (3, 8), "c": (1,), "output.weight": (4, 8)}, {}
    )
    found = {one.where: (one.message, one.severity) for one in compare_structure(base, candidate)}
    assert found["a"] == ("a is missing", Severity.ERROR)
    assert found["b"] == ("b has shape [3, 8], the original [2, 8]", Severity.ERROR)
    assert found["c"] == ("c is not in the original", Severity.ERROR)
    assert found["output.weight"][1] is Severity.NOTE


def test_a_structure_survives_json() -> None:
    one = Structure("llama", {"llama.block_count": 4, "x": "3 items, SHA-256 00"}, {"a": (2, 8)}, {})
    assert Structure.from_dict(json.loads(json.dumps(one.as_dict()))) == one
    for bad in ({}, one.as_dict() | {"tensors": {"a": [2.5]}}, one.as_dict() | {"metadata": []}):
        with pytest.raises(ValueError, match="missing|whole numbers"):
            Structure.from_dict(bad)


@pytest.mark.parametrize(
    ("key", "base", "candidate", "kind", "severity"),
    [
        ("llama.rope.freq_base", 1e4, None, "metadata", Severity.ERROR),
        ("general.name", "a", "b", "metadata", Severity.NOTE),
        ("general.architecture", "llama", "qwen2", "metadata", Severity.ERROR),
        ("my.note", None, "b", "metadata", Severity.NOTE),
        ("my.note", "a", None, "metadata", Severity.ERROR),
        ("llama.attention.scale", None, 2.0, "metadata", Severity.ERROR),
        ("tokenizer.ggml.pre", None, "qwen2", "tokenizer", Severity.ERROR),
        ("tokenizer.chat_template.tool", None, "x", "template", Severity.ERROR),
    ],
)
def test_what_belongs_to_the_model_is_an_error(key, base, candidate, kind: str, severity: Severity) -> None:
    sides = [{} if value is None else {key: value} for value in (base, candidate)]
    (found,) = differing(*sides)
    assert (found.kind, found.where, found.severity) == (kind, key, severity)
    assert found.kind in sum(KINDS.values(), ())


@pytest.mark.parametrize(
    ("base", "candidate", "message"),
    [
        (["a", "b", "c"], ["a", "x", "c"], '[1] is "x", the original has "b": tokens have other texts'),
        (["a", "b", "c"], ["a", "x", "y"], '[1] is "x", the original has "b" (2 items differ): tokens'),
        (["a", "b"], ["a"], "has 1 items, the original 2: tokens have"),
        ([1], [1.0], "has items of another type than the original's"),
    ],
)
def test_the_item_of_an_array_that_differs_is_named(base: list[Any], candidate: list[Any], message: str) -> None:
    (found,) = differing({TOKENS: base}, {TOKENS: candidate})
    assert found.kind == "token"
    assert f"{TOKENS} {message}" in found.message


@pytest.mark.parametrize(
    ("candidate", "change"),
    [
        ("Hello evil world", '"evil " has been added after "Hello "'),
        ("Hello ", '"world" has been removed after "Hello "'),
        ("Hello 12345", '"12345" stands for "world" after "Hello "'),
    ],
)
def test_a_change_of_the_template_is_quoted(candidate: str, change: str) -> None:
    key = "tokenizer.chat_template"
    (found,) = differing({key: "Hello world"}, {key: candidate})
    assert (found.kind, found.message) == ("template", f"{key} differs from the original's: {change}")


def test_a_structure_keeps_what_is_of_the_model_and_long_values_as_digests() -> None:
    array = KV("tokenizer.ggml.tokens", T.ARRAY, ["a", "b"], T.STRING)
    entries = (
        KV("general.file_type", T.UINT32, 7), KV("split.count", T.UINT16, 2), KV("quantize.x", T.STRING, "x"),
        KV("llama.eps", T.FLOAT32, 9.999999747378752e-06), array,
    )  # fmt: skip
    made = structure_of(Model(Hparams("llama", 1, 8, 2, 2), entries, ()))
    digest = hashlib.sha256(b'["a", "b"]').hexdigest()
    assert made.metadata == {"llama.eps": 1e-05, "tokenizer.ggml.tokens": f"2 items, SHA-256 {digest}"}
    assert made.arrays == {"tokenizer.ggml.tokens": ["a", "b"]}
    text = "x" * ((1 << 18) + 1)
    assert stored(KV("k", T.STRING, text[1:])) == text[1:]
    assert stored(KV("k", T.STRING, text)).startswith("262145 characters, SHA-256 ")
