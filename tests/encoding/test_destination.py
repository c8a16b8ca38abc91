"""Every reason why the output cannot go there is said before anything is touched; what lies beside it goes with it."""

from pathlib import Path

import pytest

from ggufkit.encoding.destination import check_output, copy_path, forget_copy, layers_folder
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import OutputError
from ggufkit.formats.unfinished import journal_path, partial_path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.gguf"
    path.write_bytes(b"weights")
    return path


def check(source: Path, output: Path, nbytes: int = 1000, **changes: object) -> None:
    check_output(QuantizeSettings(source=source, output=output, **changes), [], nbytes)  # type: ignore[arg-type]


def test_a_free_place_is_left_as_it_is(source: Path, tmp_path: Path) -> None:
    check(source, tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


def test_a_file_that_is_there_is_replaced_by_force_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.gguf").write_bytes(b"old")
    with pytest.raises(OutputError, match=r"exists. Replace it with --force"):
        check(source, tmp_path / "out.gguf")
    check(source, tmp_path / "out.gguf", force=True)
    assert (tmp_path / "out.gguf").read_bytes() == b"old"


def test_no_input_is_written_to(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is the input itself"):
        check(source, source, force=True)
    partial = partial_path(tmp_path / "out.gguf")
    partial.hardlink_to(source)
    with pytest.raises(OutputError, match="is the input itself"):
        check(source, tmp_path / "out.gguf", force=True)


def test_an_output_in_the_checkpoint_is_called_gguf(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"would pass for a part of the checkpoint. Name it out.gguf"):
        check(tmp_path, tmp_path / "out.safetensors")
    check(tmp_path, tmp_path / "out.gguf")


def test_too_little_disk_is_said(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"out\.gguf"):
        check(source, tmp_path / "out.gguf", nbytes=1 << 60)


def test_restart_discards_what_a_run_left(source: Path, tmp_path: Path) -> None:
    left = [partial_path(tmp_path / "out.gguf"), journal_path(tmp_path / "out.gguf")]
    for path in left:
        path.write_bytes(b"left")
    check(source, tmp_path / "out.gguf")
    assert all(path.exists() for path in left)
    check(source, tmp_path / "out.gguf", restart=True)
    assert not any(path.exists() for path in left)


def test_helpers_lie_hidden_beside_the_output(tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    made = {copy_path(output, "check"), copy_path(output, "calibration"), layers_folder(output)}
    assert {path.name for path in made} == {".out.gguf.check.gguf", ".out.gguf.calibration.gguf", ".out.gguf.layers"}
    assert {path.parent for path in made} == {tmp_path}


def test_a_copy_is_forgotten_finished_or_not(tmp_path: Path) -> None:
    copy = copy_path(tmp_path / "out.gguf", "check")
    for path in (copy, partial_path(copy), journal_path(copy)):
        path.write_bytes(b"left")
    forget_copy(tmp_path / "out.gguf", "check")
    forget_copy(tmp_path / "out.gguf", "check")
    assert not list(tmp_path.iterdir())
