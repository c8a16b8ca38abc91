"""What a run found out is there for the next one, whole or not at all."""

from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import OutputError
from ggufkit.fitting import notebook
from ggufkit.fitting.notebook import Notebook

ARRAYS = {"blk.0.attn_q.weight.fit.sums": np.arange(12, dtype=np.float32).reshape(3, 4), "n_chunk": np.array(7)}


def test_values_and_arrays_are_there_for_the_next_run(tmp_path: Path) -> None:
    first = Notebook(tmp_path / "kept", "a")
    assert first.remember("x", lambda: [1 / 3, {"Q2_K": 0.1}]) == [1 / 3, {"Q2_K": 0.1}]
    assert first.save("walk", ARRAYS)
    second = Notebook(tmp_path / "kept", "a")
    assert second.remember("x", pytest.fail, "found out again") == [1 / 3, {"Q2_K": 0.1}]
    loaded = second.load("walk")
    assert loaded is not None and all(np.array_equal(loaded[key], ARRAYS[key]) for key in ARRAYS)
    assert loaded["n_chunk"].dtype == ARRAYS["n_chunk"].dtype
    second.drop("walk")
    assert second.load("walk") is None


def test_another_identity_is_refused(tmp_path: Path) -> None:
    Notebook(tmp_path / "kept", "a")
    with pytest.raises(OutputError, match="of another source, text or effort.*--restart"):
        Notebook(tmp_path / "kept", "b")


def test_a_torn_line_is_found_out_again(tmp_path: Path) -> None:
    first = Notebook(tmp_path / "kept", "a")
    first.remember("x", lambda: 1)
    first.remember("y", lambda: 2)
    path = tmp_path / "kept" / "values.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    second = Notebook(tmp_path / "kept", "a")
    assert (second.remember("x", pytest.fail), second.remember("y", lambda: 3)) == (1, 3)
    assert Notebook(tmp_path / "kept", "a").remember("y", pytest.fail) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_arrays_are_gathered_again(damage: str, tmp_path: Path) -> None:
    book = Notebook(tmp_path / "kept", "a")
    book.save("walk", {"x": np.zeros(1000)})
    path = tmp_path / "kept" / "walk.npz"
    raw = bytearray(path.read_bytes())
    raw[2000] ^= 1
    path.write_bytes(raw[:3000] if damage == "cut" else raw)
    assert book.load("walk") is None


def test_a_full_disk_costs_nothing_but_the_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Notebook(tmp_path / "kept", "a")
    monkeypatch.setattr(notebook, "_SPARE_NBYTES", 1 << 60)
    assert not book.save("walk", ARRAYS)
    assert book.load("walk") is None


def test_without_a_folder_nothing_is_remembered_on_the_disk() -> None:
    book = Notebook(None)
    assert book.remember("x", lambda: 5) == 5 and book.remember("x", pytest.fail) == 5
    assert not book.save("walk", ARRAYS) and book.load("walk") is None
