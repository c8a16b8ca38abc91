"""A tokenizer of vocab.json and merges.txt alone: entries as llama.cpp's converter's, token ids as transformers'."""

import json
from pathlib import Path

import pytest

from ggufkit.architectures import convert
from ggufkit.errors import TokenizerError
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.tokenizer import VocabKind, load_vocabulary
from tests.architectures.emit import metadata_facts
from tests.data.folders.make import CASES, write
from tests.tokenizer.test_token_ids import KNOWN_TO_DIFFER, Vocab
from tests.tokenizer.texts import TEXTS

FACTS = json.loads((Path(__file__).parents[1] / "data" / "folders" / "cases.json").read_text(encoding="utf-8"))
QWEN = "qwen2, numbered in tokenizer_config.json"


@pytest.mark.parametrize("name", CASES)
def test_entries_are_the_converters(name: str, tmp_path: Path) -> None:
    entries = metadata_facts(convert(Checkpoint.open(write(name, tmp_path))), "f32")
    assert {key: value for key, value in entries.items() if key.startswith("tokenizer.")} == FACTS[name]["kv"]


@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    vocab = Vocab(write(name, tmp_path), 656, (VocabKind.BPE,), tmp_path / "vocab.gguf")
    wrong = {key for key, text in TEXTS.items() if vocab.ids(text) != FACTS[name]["ids"][key]}
    vocab.close()
    assert wrong == KNOWN_TO_DIFFER.get(CASES[name]["pre"], set())


def edited(folder: Path, file: str, **values: object) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **values}))


def read(folder: Path, notes: list[str] | None = None) -> dict[str, object]:
    return {kv.key: kv.value for kv in load_vocabulary(folder, 656, (VocabKind.BPE,), notes=notes)}


def test_where_config_is_silent_a_text_ends_as_the_tokenizer_says(tmp_path: Path) -> None:
    folder = write(QWEN, tmp_path)
    edited(folder, "config.json", bos_token_id=None, eos_token_id=None)
    entries = read(folder)
    assert entries["tokenizer.ggml.eos_token_id"] == 642 and "tokenizer.ggml.bos_token_id" not in entries


def test_a_broken_tokenizer_json_is_not_needed(tmp_path: Path) -> None:
    folder, notes = write(QWEN, tmp_path), list[str]()
    without = read(folder)
    (folder / "tokenizer.json").write_text("{")
    assert read(folder, notes) == without
    assert len(notes) == 1 and "tokenizer.json" in notes[0]


def test_a_qwen35_is_cut_as_one_whatever_class_it_names(tmp_path: Path) -> None:
    folder = write(QWEN, tmp_path)
    edited(folder, "config.json", model_type="qwen3_5_moe")
    assert read(folder)["tokenizer.ggml.pre"] == "qwen35"


def test_a_family_whose_own_tokenizer_cuts_otherwise_is_told(tmp_path: Path) -> None:
    notes = list[str]()
    read(write("starcoder2, special tokens in vocab.json", tmp_path), notes)
    assert len(notes) == 1 and "digit by digit" in notes[0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: (f / "merges.txt").unlink(), r"vocab\.json is of no use without merges\.txt"),
        (lambda f: (f / "vocab.json").unlink(), r"merges\.txt is of no use without vocab\.json"),
        (lambda f: (f / "vocab.json").write_text("{"), r"vocab\.json: is not valid JSON"),
        (lambda f: edited(f, "vocab.json", x=999), r"vocab\.json: token 'x' has number 999, the model has 656 rows"),
        (lambda f: edited(f, "vocab.json", x="1"), r"vocab\.json: token 'x' has number '1'"),
        (lambda f: (f / "merges.txt").write_text("#version\nqq zz\n"), r"merges\.txt: merge 0 needs token"),
        (lambda f: (f / "merges.txt").write_text("a b c\n"), r"merges\.txt: merge 0 is"),
        (lambda f: edited(f, "tokenizer_config.json", tokenizer_class="OddTokenizer"), r"OddTokenizer.*Fetch"),
        (lambda f: edited(f, "config.json", model_type="phi3"), r"of a phi3 model"),
        (lambda f: edited(f, "tokenizer_config.json", add_prefix_space=True), "pre-tokenizer .* is not known"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(edit, message: str, tmp_path: Path) -> None:
    folder = write(QWEN, tmp_path)
    edit(folder)
    with pytest.raises(TokenizerError, match=message):
        read(folder)
