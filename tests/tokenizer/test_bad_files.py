"""One clear TokenizerError for each kind of bad tokenizer."""

import json

import pytest

from ggufkit.errors import TokenizerError
from ggufkit.tokenizer import VocabKind, load_vocabulary
from tests.architectures import tiny

ALL = (VocabKind.SPM, VocabKind.LLAMA_HF, VocabKind.BPE)
DECLARED = json.loads((tiny.DATA / "pretokenizers.json").read_text())


def tokenizer(name="gpt-2"):
    return tiny.with_vocabulary(DECLARED[name], "bpe.json")


def refused(folder, message, *, n_vocab=640, kinds=ALL):
    with pytest.raises(TokenizerError, match=message):
        load_vocabulary(folder, n_vocab, kinds)


def write(folder, value, name="tokenizer.json"):
    tiny.write_json(folder / name, value)


def test_no_tokenizer_says_which_files_are_wanted(tmp_path):
    refused(tmp_path, "no tokenizer found, wanted tokenizer.json or tokenizer.model")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not valid JSON"),
        (b"[]", "holds a JSON list"),
        (b"\xff\xfe{}", "is not valid JSON: UTF-16, not UTF-8"),
        (b'{"model": {"vocab": {"a": 0, "a": 1}}}', "'a' appears twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"version https://git-lfs.github.com/spec/v1", "git-lfs pointer"),
        (b"<!DOCTYPE html>", "HTML page"),
    ],
    ids=["cut off", "list", "utf-16", "duplicate", "deep", "lfs", "html"],
)
def test_a_file_that_is_no_tokenizer(content, message, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content)
    refused(tmp_path, message, kinds=(VocabKind.BPE,))


def test_a_file_too_large_is_not_read(tmp_path):
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 40)
    refused(tmp_path, "1099511627776 bytes, at most")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "vocab", "!"), "0", "token '!' has number '0'"),
        (("model", "vocab", "!"), -1, "token '!' has number -1"),
        (("model", "vocab", "!"), True, "token '!' has number True"),
        (("model", "vocab", "new"), 5, "and 'new' are both number 5"),
        (("model", "vocab", "new"), 640, "'new' has number 640, the model has 640 rows"),
        (("model", "vocab"), [], "vocab: list, wanted dict"),
        (("model", "merges", 0), "one", "merge 0 is 'one'"),
        (("model", "merges", 0), ["never", "seen"], "merge 0 needs token 'never'"),
        (("model", "merges"), [], "has no merges"),
        (("model", "type"), "Unigram", "model is 'Unigram', wanted BPE"),
        (("added_tokens",), [{"id": 5, "content": "<x>"}], "'<x>' is number 5, as is"),
        (("added_tokens",), [{"content": "<x>"}], "'<x>' has number None"),
        (
            ("pre_tokenizer", "add_prefix_space"),
            True,
            r"pre-tokenizer .*ByteLevel.* is not known.*Known: dbrx, .*gpt-2",
        ),
        (("pre_tokenizer",), {"type": "Whitespace"}, "pre-tokenizer .*Whitespace.* is not known"),
        (("normalizer",), {"type": "Lowercase"}, "normalizer Lowercase"),
    ],
    ids=lambda value: "/".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_malformed_entries_are_named(path, value, message, tmp_path):
    whole = tokenizer()
    spot = whole
    for key in path[:-1]:
        spot = spot[key]
    spot[path[-1]] = value
    write(tmp_path, whole)
    refused(tmp_path, message, kinds=(VocabKind.BPE,))


def test_more_pieces_than_rows(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes((tiny.DATA / "spm.model").read_bytes())
    refused(tmp_path, "480 pieces, the model has 479 rows", n_vocab=479)


def test_a_model_that_is_no_protobuf(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\x00" * 100)
    refused(tmp_path, "is not a SentencePiece model")


def test_half_a_character_is_refused(tmp_path):
    whole = tokenizer()
    whole["added_tokens"] = [{"id": 640, "content": "\ud800"}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    refused(tmp_path, "tokenizer.ggml.tokens holds U.D800", n_vocab=641)


def test_rows_without_a_token_are_padded(tmp_path):
    write(tmp_path, tokenizer())
    tokens = {kv.key: kv.value for kv in load_vocabulary(tmp_path, 642, ALL)}["tokenizer.ggml.tokens"]
    assert tokens[-2:] == ["[PAD640]", "[PAD641]"]
