"""Model cards as people write them: read where they can be, left out with a note where not, never the end of a job."""

import os

import pytest

from ggufkit.architectures.card import read_card
from ggufkit.formats.files import is_local

WORDS = {"license": "mit", "base_model": ["org/name"]}
FRONT = b"---\nlicense: mit\nbase_model: org/name\n---\n# A model\n"
GOOD = {
    "plain": FRONT,
    "byte-order mark": b"\xef\xbb\xbf" + FRONT,
    "CR LF": FRONT.replace(b"\n", b"\r\n"),
    "byte-order mark and CR LF": b"\xef\xbb\xbf" + FRONT.replace(b"\n", b"\r\n"),
    "spaces behind the dashes": FRONT.replace(b"---\n", b"---  \n"),
    "no closing dashes": FRONT.partition(b"\n---\n")[0],
    "unknown keys of any kind": FRONT.replace(b"license", b"date: 2024-02-30\n1: [2, {3: 4}]\nlicense", 1),
}  # fmt: skip


@pytest.mark.parametrize("raw", GOOD.values(), ids=GOOD)
def test_a_card_reads_however_it_was_saved(raw, tmp_path):
    notes = []
    (tmp_path / "README.md").write_bytes(raw)
    assert read_card(tmp_path, notes) == WORDS and not notes


NOTHING = {"empty": b"", "no front matter": b"# A model\n", "empty front matter": b"---\n---\n", "dashes": b"---"}


@pytest.mark.parametrize("raw", NOTHING.values(), ids=NOTHING)
def test_a_card_without_front_matter_says_nothing(raw, tmp_path):
    notes = []
    (tmp_path / "README.md").write_bytes(raw)
    assert read_card(tmp_path, notes) == {} and not notes


BROKEN = {
    "list not closed": (b"---\ntags: [a, b\n---\n", "its front matter is not YAML"),
    "Latin-1": (b"---\nauthor: Jos\xe9\n---\n", "not UTF-8 at byte 15"),
    "UTF-16": ("---\nlicense: mit\n---\n".encode("utf-16"), "UTF-16, not UTF-8"),
    "a list": (b"---\n- a\n---\n", "its front matter is a list"),
    "a word": (b"---\nmit\n---\n", "its front matter is a str"),
    "a number": (b"---\n5\n---\n", "its front matter is a"),
    "alias of nothing": (b"---\na: *b\n---\n", "not YAML"),
    "a python object": (b"---\na: !!python/object/apply:os.system [id]\n---\n", "not YAML"),
    "control characters": (b"---\nlicense: \x01\x1b[2J\n---\n", "not YAML"),
    "keys that are lists": (b"---\n? [a]\n: b\n---\n", "not YAML"),
    "deep": (b"---\na: " + b"[" * 100_000 + b"\n---\n", "not YAML"),
    "huge": (b"---\nlicense: mit\n---\n" + b" " * (5 << 20), "bytes, at most"),
}


@pytest.mark.parametrize(("raw", "wanted"), BROKEN.values(), ids=BROKEN)
def test_a_card_that_cannot_be_read_is_left_out_with_a_note(raw, wanted, tmp_path):
    notes = []
    (tmp_path / "README.md").write_bytes(raw)
    assert read_card(tmp_path, notes) == {}
    assert len(notes) == 1 and wanted in notes[0] and "README.md" in notes[0] and notes[0].isprintable()


def test_what_is_no_file_is_left_out_with_a_note(tmp_path):
    for build in (os.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")):
        folder = tmp_path / getattr(build, "__name__", "link")
        folder.mkdir()
        build(folder / "README.md")
        notes = []
        assert read_card(folder, notes) == {} and len(notes) == 1


ENTRIES = {
    "number": ("model_name: 7", {}, "model_name is 7, wanted words"),
    "version that is a number": ("model_version: 1.0", {}, "model_version is 1.0, wanted words"),
    "date": ("license: 2024-01-31", {}, "license is 2024-01-31"),
    "date that is none": ("license: 2024-02-30", {}, "license is 2024-02-30"),
    "truth": ("license: yes", {}, "license is yes"),
    "dict": ("author: {a: b}", {}, "author is {'a': 'b'}"),
    "list where a word is wanted": ("name: [a, b]", {}, "name is ['a', 'b']"),
    "null": ("license: null\ntags:", {}, ""),
    "half a character": ('license: "\\ud800"', {}, "README.md"),  # one YAML reader refuses it, the other reads it
    "list with numbers": ("tags: [a, 7, {b: c}, d]", {"tags": ["a", "d"]}, "tags is 7"),
    "Norwegian": ("language: no", {"language": "no"}, ""),
    "languages": ("language: [en, no]", {"language": ["en", "no"]}, ""),
    "a base model that is a number": ("base_model: 3", {}, "base_model is 3, wanted words"),
    "a base model on a disk": ("base_model: ./out", {}, "base_model is './out', wanted the name of a model on the hub"),
    "one of several on a disk": ("base_model: [/data/m, org/m]", {"base_model": ["org/m"]}, "base_model is '/data/m'"),
    "a base model as a dict": ("base_model: {name: m, url: 5, x: y}", {"base_model": [{"name": "m"}]}, "is 5, wanted"),
    "a data set on a disk": ("datasets: [../d, org/d]", {"datasets": ["org/d"]}, "datasets is '../d'"),
    "an address": ("base_model: https://huggingface.co/a/b", {"base_model": ["https://huggingface.co/a/b"]}, ""),
}  # fmt: skip


@pytest.mark.parametrize(("text", "card", "wanted"), ENTRIES.values(), ids=ENTRIES)
def test_entries_that_are_no_words_are_left_out(text, card, wanted, tmp_path):
    notes = []
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n")
    assert read_card(tmp_path, notes) == card
    assert (notes and wanted in notes[0]) if wanted else not notes


@pytest.mark.parametrize(
    "merge", ["[*{}, *{}, *{}, *{}, *{}, *{}, *{}, *{}]", "{{<<: [*{}, *{}, *{}, *{}, *{}, *{}, *{}, *{}]}}"]
)
def test_a_card_that_multiplies_itself_costs_nothing(merge, tmp_path):
    """A page of aliases stands for 8¹² entries."""
    lines = ["a0: &a0 {k: v}"] + [f"a{i}: &a{i} {merge.format(*[f'a{i - 1}'] * 8)}" for i in range(1, 13)]
    notes = []
    (tmp_path / "README.md").write_text("\n".join(["---", *lines, "author: *a12", "license: mit", "---"]))
    assert read_card(tmp_path, notes) == {"license": "mit"}
    assert len(notes) == 1 and len(notes[0]) < 300


def test_paths_are_told_from_names_of_the_hub():
    for path in (
        "/data/m",
        "./m",
        "../m",
        ".",
        "..",
        "~/m",
        "C:\\m",
        "D:/m",
        "a\\b",
        "a/b/c",
        "file:///m",
        "out/",
        "out/checkpoint-500",
        "git@host:a/b",
    ):
        assert is_local(path), path
    for name in ("m", "org/m", "org/m-7b.v1", "https://huggingface.co/org/m", "ssh://host/org/m", "A name in words"):
        assert not is_local(name), name
