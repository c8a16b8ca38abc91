"""What a vocabulary can do without: broken, odd or absent files and entries make a note, and the rest is read."""

import json
import os

import pytest

from ggufkit.errors import TokenizerError
from ggufkit.tokenizer import VocabKind, load_vocabulary
from tests.architectures import tiny

SPM_FIRST = (VocabKind.SPM, VocabKind.LLAMA_HF, VocabKind.BPE)
DECLARED = json.loads((tiny.DATA / "pretokenizers.json").read_text())
SPM = (tiny.DATA / "spm.model").read_bytes()
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
CONTROL, NORMAL, UNUSED = 3, 1, 5


def bpe(folder, **changes):
    tiny.write_json(folder / "tokenizer.json", tiny.with_vocabulary(DECLARED["gpt-2"], "bpe.json") | changes)


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def load(folder, n_vocab=640, kinds=SPM_FIRST):
    notes = []
    return {
        kv.key.removeprefix("tokenizer."): kv.value for kv in load_vocabulary(folder, n_vocab, kinds, notes=notes)
    }, notes


BROKEN = [
    b"", b"  \n", b"null", b"[]", b"1", b'"a"', b"{", b"\xff\xfe{\0}\0", b'{"a": "\xe9"}', b"<html>", b"[" * 100_000,
    b'{"a":1,"a":2}', b"version https://git-lfs.github.com/spec/v1\n",
]  # fmt: skip
OPTIONAL = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json"]


@pytest.mark.parametrize("name", [*OPTIONAL, "tokenizer.json"])
def test_an_optional_file_that_cannot_be_read_is_left_out_with_a_note(name, tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    whole, notes = load(tmp_path)
    assert not notes
    for content in BROKEN:
        write(tmp_path, name, content)
        found, notes = load(tmp_path, kinds=(VocabKind.SPM, VocabKind.SPM_PHI3))
        if name != "special_tokens_map.json":  # of SentencePiece, nothing is taken from it
            assert len(notes) == 1 and name in notes[0] and notes[0].endswith("it is left out"), content
        assert found == whole


@pytest.mark.parametrize("build", ["folder", "link to nothing", "pipe"])
@pytest.mark.parametrize("name", [*OPTIONAL, "chat_template.jinja", "tokenizer.json"])
def test_what_is_no_file_is_left_out_with_a_note(name, build, tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    path = tmp_path / name
    {"folder": path.mkdir, "link to nothing": lambda: path.symlink_to("nowhere"), "pipe": lambda: os.mkfifo(path)}[
        build
    ]()
    _, notes = load(tmp_path, kinds=(VocabKind.SPM,))
    assert name == "special_tokens_map.json" or (len(notes) == 1 and name in notes[0])


@pytest.mark.parametrize("other", [b"IQ== 0\nIg== 1\n", b"", b"\0" * 100, b"{}", SPM[:-7], b"<html>"])
def test_the_tokenizer_file_that_can_be_used_is_taken(other, tmp_path):
    """Of a tokenizer.model that is a tiktoken list, empty or cut short and a good tokenizer.json; and the reverse."""
    write(tmp_path, "tokenizer.model", other)
    with pytest.raises(TokenizerError, match=r"tokenizer.model"):
        load(tmp_path)
    bpe(tmp_path)
    found, notes = load(tmp_path)
    assert found["ggml.model"] == "gpt2" and len(notes) == 1 and "tokenizer.model" in notes[0]
    write(tmp_path, "tokenizer.model", SPM)
    write(tmp_path, "tokenizer.json", b"[]")
    assert load(tmp_path)[0]["ggml.model"] == "llama"


def test_a_sentencepiece_model_of_other_weights_gives_way_to_a_tokenizer_that_fits(tmp_path):
    write(tmp_path, "tokenizer.model", SPM)  # 480 pieces
    tokenizer = tiny.with_vocabulary(DECLARED["gpt-2"], "bpe.json")
    keep = {text: number for text, number in tokenizer["model"]["vocab"].items() if number < 470}
    pairs = [pair for pair in tokenizer["model"]["merges"] if {"".join(pair), *pair} <= keep.keys()]
    tokenizer["model"] |= {"vocab": keep, "merges": pairs}
    tokenizer["added_tokens"] = []
    tiny.write_json(tmp_path / "tokenizer.json", tokenizer)
    found, notes = load(tmp_path, 470)
    assert found["ggml.model"] == "gpt2" and "480 pieces, the model has 470 rows" in notes[0]


def decoder(number, entry):
    return {"added_tokens_decoder": {number: entry, "481": {"content": "<y>"}}}


ENTRIES = [
    ("added_tokens.json", {"<x>": "1", "<y>": 481}, "'<x>' has number '1'"),
    ("added_tokens.json", {"<x>": -1, "<y>": 481}, "'<x>' has number -1"),
    ("added_tokens.json", {"<x>": 700, "<y>": 481}, "'<x>' has number 700, and no row: the model has 500"),
    ("added_tokens.json", {"": 480, "<y>": 481}, "added token with number 480 has no text"),
    ("added_tokens.json", {"<x>": 5, "<y>": 481}, "'<x>' has number 5, which is the byte <0x0"),
    ("tokenizer_config.json", decoder("480", {"content": ""}), "added token with number 480 has no text"),
    ("tokenizer_config.json", decoder("5", {"content": "<x>"}), "'<x>' has number 5, which is the byte <0x0"),
    ("tokenizer_config.json", decoder("700", {"content": "<x>"}), "'<x>' has number 700"),
    ("tokenizer_config.json", decoder("x", {"content": "<x>"}), "number 'x'"),
    ("tokenizer_config.json", decoder("480", ["<x>"]), "list, wanted dict"),
    ("tokenizer_config.json", decoder("480", {"content": 5}), "int, wanted str"),
    ("tokenizer_config.json", {"added_tokens_decoder": ["<x>"]}, "added_tokens_decoder is a list"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "wanted"), ENTRIES)
def test_added_tokens_that_cannot_be_used_are_left_out_one_by_one(name, content, wanted, tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    write(tmp_path, name, content)
    found, notes = load(tmp_path, 500)
    assert len(notes) == 1 and wanted in notes[0]
    assert found["ggml.tokens"][480] == "[PAD480]"
    assert found["ggml.tokens"][481] == ("<y>" if "'481'" in repr(content) or "<y>" in content else "[PAD481]")


def test_numbers_of_tokens_may_be_written_as_floats(tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    write(tmp_path, "added_tokens.json", {"<x>": 480.0})
    assert load(tmp_path, 500)[0]["ggml.tokens"][480] == "<x>"
    (tmp_path / "tokenizer.model").unlink()
    bpe(tmp_path, added_tokens=[{"id": 640.0, "content": "<x>"}])
    assert load(tmp_path, 650)[0]["ggml.tokens"][640] == "<x>"


def test_an_added_token_beyond_the_rows_is_left_out_of_every_kind_of_vocabulary(tmp_path):
    bpe(tmp_path, added_tokens=[{"id": 700, "content": "<x>"}])
    found, notes = load(tmp_path)
    assert (
        "<x>" not in found["ggml.tokens"]
        and len(notes) == 1
        and "'<x>' has number 700, and no row: the model has 640" in notes[0]
    )
    bpe(tmp_path, added_tokens=[{"id": 700 + i, "content": f"<{i}>"} for i in range(1000)])
    wanted = "added token '<0>' has number 700, and no row: the model has 640, nor have 999 more; it is left out"
    assert load(tmp_path)[1] == [wanted]


def test_a_text_with_two_numbers_is_refused_in_every_kind_of_vocabulary(tmp_path):
    """llama.cpp dies of it."""
    write(tmp_path, "tokenizer.model", SPM)
    write(tmp_path, "added_tokens.json", {"</s>": 480})
    with pytest.raises(TokenizerError, match=r"token '</s>' is number 2 and number 480.*Remove one"):
        load(tmp_path, 500)
    write(tmp_path, "added_tokens.json", {})
    write(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": {"490": {"content": "<s>", "special": True}}})
    with pytest.raises(TokenizerError, match="token '<s>' is number 1 and number 490"):
        load(tmp_path, 500)


def test_a_token_called_like_a_filler_keeps_its_name(tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    write(tmp_path, "added_tokens.json", {"[PAD491]": 480, "[PAD482]": 482})
    tokens = load(tmp_path, 500)[0]["ggml.tokens"]
    assert (tokens[480], tokens[482], tokens[491]) == ("[PAD491]", "[PAD482]", "[PAD491]-")
    assert len(set(tokens)) == 500
    (tmp_path / "tokenizer.model").unlink()
    bpe(tmp_path, added_tokens=[{"id": 645, "content": "[PAD641]"}])
    tokens = load(tmp_path, 650)[0]["ggml.tokens"]
    assert (tokens[645], tokens[641]) == ("[PAD641]", "[PAD641]-") and len(set(tokens)) == 650


def test_a_sentencepiece_vocabulary_without_bytes_is_refused(tmp_path):
    """llama.cpp dies of the first character that it cannot spell."""
    write(tmp_path, "tokenizer.model", SPM.replace(b"<0xFF>", b"<0xGG>"))
    with pytest.raises(TokenizerError, match="lacks <0xFF>, the token of a byte; 1 of 256"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["bos", "eos", "unk", "pad"])
def test_minus_one_and_rows_that_are_not_there_are_no_tokens(kind, tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    key = {"unk": "unknown", "pad": "padding"}.get(kind, kind)
    for number, wanted in ((-1, None), (None, None), ("2", None), ([2, 3], None), (2.0, 2), (2, 2), (999, None)):
        write(tmp_path, "config.json", {f"{kind}_token_id": number})
        found, notes = load(tmp_path)
        assert found.get(f"ggml.{key}_token_id") == wanted
        assert bool(notes) == (number == 999)


def test_the_tokenizers_own_word_counts_where_the_config_has_none(tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    write(
        tmp_path,
        "tokenizer_config.json",
        {"pad_token": "<unk>", "eos_token": {"content": "</s>"}, "bos_token": "<nowhere>"},
    )
    write(tmp_path, "config.json", {"pad_token_id": -1, "eos_token_id": 999, "bos_token_id": -1})
    found, _ = load(tmp_path)
    assert (found["ggml.padding_token_id"], found["ggml.eos_token_id"]) == (0, 2)
    assert "ggml.bos_token_id" not in found


@pytest.mark.parametrize("how", ["role", "object", "added", "decoder"])
def test_an_ordinary_piece_that_pads_stays_ordinary(how, tmp_path):
    """`!`, as several fine-tunes have it: as a control token it would vanish from answers."""
    added = [{"id": 0, "content": "!", "special": True}] if how == "added" else []
    bpe(tmp_path, added_tokens=added)
    config = {"pad_token": {"content": "!"} if how == "object" else "!"}
    if how == "decoder":
        config["added_tokens_decoder"] = {"0": {"content": "!", "special": True}}
    write(tmp_path, "tokenizer_config.json", config)
    found, notes = load(tmp_path)
    assert (found["ggml.tokens"][0], found["ggml.token_type"][0]) == ("!", NORMAL) and not notes
    write(tmp_path, "tokenizer_config.json", {"eos_token": "!", "pad_token": "!"})
    assert load(tmp_path)[0]["ggml.token_type"][0] == CONTROL


def test_an_ordinary_sentencepiece_that_pads_stays_ordinary(tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    number = load(tmp_path)[0]["ggml.tokens"].index("e")
    decoder = {str(number): {"content": "e", "special": True}, "481": {"content": "<pad2>", "special": True}}
    write(tmp_path, "tokenizer_config.json", {"pad_token": "e", "added_tokens_decoder": decoder})
    types = load(tmp_path, 500)[0]["ggml.token_type"]
    assert (types[number], types[481], types[499]) == (NORMAL, CONTROL, UNUSED)


@pytest.mark.parametrize("key", ["additional_special_tokens", "extra_special_tokens"])
@pytest.mark.parametrize("value", [5, "a", None, [], {}, [5, None, {"content": 7}], {"a": 5}])
def test_lists_of_special_tokens_may_hold_anything(key, value, tmp_path):
    case = tiny.load_case("tinyllama-1.1b")
    tiny.write_files(case, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    write(tmp_path / "m", "tokenizer_config.json", config | {key: value})
    load(tmp_path / "m", case["config"]["vocab_size"])


def templates(folder):
    found, notes = load(folder)
    return {key: value for key, value in found.items() if "chat_template" in key}, notes


@pytest.mark.parametrize(
    "config", [None, {}, {"chat_template": None}, {"chat_template": "other"}, {"chat_template": 5}]
)
def test_a_jinja_file_counts_whatever_the_config_says(config, tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    write(tmp_path, "chat_template.jinja", TEMPLATE.encode())
    if config is not None:
        write(tmp_path, "tokenizer_config.json", config)
    assert templates(tmp_path)[0] == {"chat_template": TEMPLATE}


def test_a_jinja_file_is_read_as_text(tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    write(tmp_path, "chat_template.jinja", b"\xef\xbb\xbf{{ a }}\r\nb\r")
    assert templates(tmp_path)[0] == {"chat_template": "{{ a }}\nb\n"}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe{\0", b"\xe9", b" " * (2 << 20), b"<html>"])
def test_a_jinja_file_that_cannot_be_read_leaves_the_config_its_say(content, tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    write(tmp_path, "chat_template.jinja", content)
    write(tmp_path, "tokenizer_config.json", {"chat_template": TEMPLATE})
    found, notes = templates(tmp_path)
    assert found == {"chat_template": TEMPLATE} and len(notes) == 1 and "chat_template.jinja" in notes[0]


def test_more_templates_stand_in_a_folder_with_and_without_a_default(tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    write(tmp_path, "additional_chat_templates/tool_use.jinja", b"t")
    write(tmp_path, "additional_chat_templates/._tool_use.jinja", b"\0\5\x16\7\xff")
    write(tmp_path, "additional_chat_templates/.DS_Store", b"\0")
    named = {"chat_template.tool_use": "t", "chat_templates": ["tool_use"]}
    assert templates(tmp_path) == (named, [])
    write(tmp_path, "chat_template.jinja", b"d")
    assert templates(tmp_path)[0] == named | {"chat_template": "d"}
    write(tmp_path, "additional_chat_templates/broken.jinja", b"\xff")
    assert templates(tmp_path)[0] == named | {"chat_template": "d"}
    (tmp_path / "additional_chat_templates" / "folder.jinja").mkdir()
    assert len(templates(tmp_path)[1]) == 2


@pytest.mark.parametrize("build", [lambda p: p.write_text("x"), lambda p: p.symlink_to("nowhere")])
def test_a_folder_of_templates_that_is_none_is_noted(build, tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    write(tmp_path, "chat_template.jinja", b"d")
    build(tmp_path / "additional_chat_templates")
    found, notes = templates(tmp_path)
    assert found == {"chat_template": "d"} and len(notes) == 1 and "additional_chat_templates" in notes[0]


DECLARATIONS = [
    ({"default": "d", "rag": "r"}, {"chat_template": "d", "chat_template.rag": "r", "chat_templates": ["rag"]}, 0),
    ({"rag": "r"}, {"chat_template.rag": "r", "chat_templates": ["rag"]}, 0),
    ([{"name": "default", "template": "d"}], {"chat_template": "d"}, 0),
    ([{"name": "rag", "template": "r"}], {"chat_template.rag": "r", "chat_templates": ["rag"]}, 0),
    ([{"name": "default", "template": "d"}, "x", {"name": 5, "template": "y"}], {"chat_template": "d"}, 2),
    ([{"name": "default"}], {}, 1),
    ([], {}, 0),
    ({}, {}, 0),
    ("", {}, 0),
    (5, {}, 1),
    ({"default": None, "a": ["b"]}, {}, 2),
    ("a" * (2 << 20), {}, 1),
    ("\ud800", {}, 1),
]  # fmt: skip


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.json"])
@pytest.mark.parametrize(("value", "wanted", "n_notes"), DECLARATIONS, ids=lambda value: repr(value)[:30])
def test_templates_as_a_text_a_dict_and_a_list(value, wanted, n_notes, place, tmp_path):
    write(tmp_path, "tokenizer.model", SPM)
    write(tmp_path, place, {"chat_template": value})
    found, notes = templates(tmp_path)
    assert found == wanted and len(notes) == n_notes
