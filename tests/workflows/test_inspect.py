"""`inspect` says what the header holds: sizes, types, long arrays by their beginning; a cut file is refused."""

from pathlib import Path

import pytest

from ggufkit.errors import GgufError
from ggufkit.workflows.inspect import inspect
from tests.recipes.narrow import Narrow, write_narrow


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_narrow(tmp_path_factory.mktemp("inspect") / "narrow.gguf", Narrow(n_layer=2, n_expert=4, dtype="BF16"))


def test_sizes_are_those_of_the_tensors(path: Path) -> None:
    report = inspect(path)
    shapes = {t.name: (t.shape, t.type, t.nbytes) for t in report.tensors}
    assert shapes["blk.1.ffn_up_exps.weight"] == ((4, 3, 256), "BF16", 4 * 3 * 256 * 2)
    assert shapes["blk.0.ffn_gate_inp.weight"] == ((4, 256), "F32", 4 * 256 * 4)
    assert sum(report.nbytes_by_type.values()) == sum(t.nbytes for t in report.tensors) < report.nbytes
    assert list(report.nbytes_by_type) == ["BF16", "F32"]
    n_weights = report.nbytes_by_type["BF16"] // 2 + report.nbytes_by_type["F32"] // 4
    assert report.n_weights == n_weights
    assert report.bpw == pytest.approx(8 * sum(report.nbytes_by_type.values()) / n_weights, rel=0.2)
    assert (report.file, report.nbytes, report.n_part) == ("narrow.gguf", path.stat().st_size, 1)


def test_arrays_show_their_length_and_beginning(path: Path) -> None:
    rows = inspect(path).metadata
    tokens = rows["tokenizer.ggml.tokens"]
    assert (tokens.type, tokens.length, tokens.value) == ("STRING[]", 6, ["t0", "t1", "t2", "t3", "t4"])
    assert (rows["llama.expert_count"].value, rows["llama.expert_count"].length) == (4, None)


def test_a_file_that_was_cut_is_refused(path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:200])
    with pytest.raises(GgufError, match=r"cut\.gguf"):
        inspect(cut)
