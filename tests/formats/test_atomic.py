"""Small outputs are complete or not there."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggufkit.errors import OutputError
from ggufkit.formats.atomic import write_atomic


def test_target_is_replaced_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")

    def chunks() -> Iterator[bytes]:
        yield b"new"
        assert target.read_bytes() == b"old"
        yield b" content"

    write_atomic(target, chunks())
    assert target.read_bytes() == b"new content"
    assert list(tmp_path.iterdir()) == [target]
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")

    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        write_atomic(target, chunks())
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent/out: cannot be written: No such file or directory"):
        write_atomic(tmp_path / "absent" / "out", [b""])
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder: cannot be written: Is a directory"):
        write_atomic(tmp_path / "folder", [b""])
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
