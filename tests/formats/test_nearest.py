"""Names that are not known: the one that was meant, else what there is; names on the hub: how to get them."""

from pathlib import Path

import pytest

from ggufkit.formats.files import hub_advice
from ggufkit.formats.nearest import meant, nearest
from ggufkit.recipes.mixtures import MIXTURES

TYPES = [row.name for row in MIXTURES]


@pytest.mark.parametrize("spelled", ["q4km", "Q4-K-M", "q4 k m", "Q4KM", "q4_km", "Q4_K_M "])
def test_case_and_punctuation_do_not_count(spelled: str) -> None:
    assert meant(spelled, TYPES) == "Did you mean Q4_K_M?"


@pytest.mark.parametrize("name", TYPES)
def test_every_type_is_found_without_its_underscores(name: str) -> None:
    assert nearest(name.replace("_", "").lower(), TYPES) == [name]


def test_what_is_far_from_everything_gets_the_list() -> None:
    assert meant("seven", ["a_b", "c_d"]) == "Known: a_b, c_d"
    assert nearest("", TYPES) == []


def test_a_short_list_is_shown_all_the_same() -> None:
    assert meant("limit", ["alpha", "limits"]) == "Known: alpha, limits. Did you mean limits?"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", "hf download mistralai/Mixtral-8x7B-v0.1 --local-dir Mixtral-8x7B-v0.1"),
        ("https://huggingface.co/org/name", "hf download org/name --local-dir name"),
        ("https://huggingface.co/org/name/tree/main", "hf download org/name --local-dir name"),
        ("hf.co/org/name:Q5_K_M", "hf download org/name --include '*Q5_K_M*' --local-dir name"),
        ("hf://org/name", "hf download org/name --local-dir name"),
        ("org/Name-GGUF", "hf download org/Name-GGUF --include '*Q4_K_M*' --local-dir Name-GGUF"),
    ],
)
def test_names_on_the_hub_say_how_to_get_them(name: str, wanted: str) -> None:
    assert hub_advice(Path(name)).endswith(wanted)


@pytest.mark.parametrize("name", ["x.gguf", "org/name.gguf", "/org/name", "a/b/c", "org", "-o/x", ""])
def test_paths_are_not_taken_for_names_on_the_hub(name: str) -> None:
    assert hub_advice(Path(name)) == ""


def test_a_folder_that_is_here_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub_advice(Path("org/name")) == ""
