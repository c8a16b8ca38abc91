"""What is recorded of a file packed by hand, and of a text."""

from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import InputError
from ggufkit.formats.text import EVALUATION_TEXT
from ggufkit.proof.facts import model_facts, named_text
from tests.formats.build import STRING, gguf_bytes, info, kv

BASE_URL = "general.base_model.0.repo_url"


def packed(path: Path, entries: list[bytes], *, first: float = 0.0) -> Path:
    """A model of 64 weights: 32 of F32 and 32 of F16."""
    weights = np.arange(32, dtype="<f4") + np.float32(first)
    data = weights.tobytes() + weights.astype("<f2").tobytes()
    infos = [info("a.weight", [16, 2], 0), info("b.weight", [16, 2], 128, ggml_type=1)]
    path.write_bytes(gguf_bytes([kv("general.architecture", STRING, "llama"), *entries], infos, data))
    return path


def test_facts_of_a_file(tmp_path: Path) -> None:
    about = {
        "general.name": "Tiny", "general.license": "mit", BASE_URL: "https://huggingface.co/some-org/Model.v1",
        "tokenizer.chat_template": "{{ x }}",
    }  # fmt: skip
    path = packed(tmp_path / "tiny.gguf", [kv(key, STRING, value) for key, value in about.items()])
    facts = model_facts(path)
    assert (facts.file, facts.nbytes, facts.arch, facts.name) == ("tiny.gguf", path.stat().st_size, "llama", "Tiny")
    assert (facts.n_weights, facts.bpw) == (64, 24.0)
    assert (facts.license, facts.base_model, facts.chats) == ("mit", "some-org/Model.v1", True)


def test_a_file_that_says_nothing_of_itself_leaves_nothing_to_record(tmp_path: Path) -> None:
    facts = model_facts(packed(tmp_path / "bare.gguf", []))
    assert (facts.name, facts.license, facts.base_model, facts.chats) == ("", "", "", False)


@pytest.mark.parametrize(
    "url",
    [
        "http://huggingface.co/a/b", "https://huggingface.co/a", "https://huggingface.co/a/b/c",
        "https://huggingface.co.evil.org/a/b", "https://huggingface.co/a/b?x=[1](y)", "https://huggingface.co/a/b c",
    ],
)  # fmt: skip
def test_only_the_hubs_own_address_names_a_base_model(url: str, tmp_path: Path) -> None:
    assert model_facts(packed(tmp_path / "a.gguf", [kv(BASE_URL, STRING, url)])).base_model == ""


def test_the_fingerprint_tells_weights_apart_and_not_names(tmp_path: Path) -> None:
    one, copy = (model_facts(packed(tmp_path / name, [])) for name in ("one.gguf", "copy.gguf"))
    other = model_facts(packed(tmp_path / "other.gguf", [], first=1.0))
    assert one.fingerprint == copy.fingerprint != other.fingerprint


def test_a_text_is_the_file_or_the_one_that_ships(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Once upon a time")
    assert named_text(path) == ("mine.txt", "Once upon a time")
    name, content = named_text(None)
    assert name == EVALUATION_TEXT
    assert len(content) > 10_000
    with pytest.raises(InputError, match=r"absent\.txt"):
        named_text(tmp_path / "absent.txt")
