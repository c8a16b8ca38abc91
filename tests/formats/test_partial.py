"""An output is complete under its final name or not there, and resume keeps exactly what is really on the disk."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import InputError, OutputError
from ggufkit.formats import partial
from ggufkit.formats.partial import PartialFile
from ggufkit.formats.unfinished import check_space, discard_unfinished, journal_path, partial_path

IDENTITY = "ab" * 32


def data(nbytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)


def test_finished_file_has_its_bytes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    final, content = tmp_path / "out.gguf", data(1000)
    out = PartialFile(final, 1000, IDENTITY)
    out.write(600, content[600:])
    out.write(0, content[:600])
    assert not final.exists()
    out.finish()
    assert final.read_bytes() == content.tobytes()
    assert os.listdir(tmp_path) == ["out.gguf"]


def test_unfinished_file_cannot_take_its_final_name(tmp_path: Path) -> None:
    out = PartialFile(tmp_path / "out.gguf", 1000, IDENTITY)
    out.write(0, data(999))
    with pytest.raises(OutputError, match="999 of 1000 bytes written"):
        out.finish()
    out.close()
    assert not (tmp_path / "out.gguf").exists()


def test_resume_keeps_what_was_written_and_only_that(tmp_path: Path) -> None:
    final, content = tmp_path / "out.gguf", data(1000)
    with PartialFile(final, 1000, IDENTITY) as out:
        out.write(0, content[:300])
        out.write(300, content[300:500])
    with PartialFile(final, 1000, IDENTITY, resume=True) as out:
        assert out.kept(0, 500)
        assert out.kept(100, 300)
        assert not out.kept(400, 200)
        assert not out.kept(500, 1)
        out.write(500, content[500:])
        out.finish()
    assert final.read_bytes() == content.tobytes()


def test_resume_tells_how_far_it_has_looked(tmp_path: Path) -> None:
    final, seen = tmp_path / "out.gguf", []
    with PartialFile(final, 1000, IDENTITY) as out:
        out.write(0, data(300))
        out.write(300, data(200))
    with PartialFile(final, 1000, IDENTITY, resume=True, on_verified=seen.append):
        assert seen == [300, 500]


def test_resume_drops_ranges_whose_bytes_were_damaged(tmp_path: Path) -> None:
    final = tmp_path / "out.gguf"
    with PartialFile(final, 1000, IDENTITY) as out:
        out.write(0, data(500))
        out.write(500, data(500, 1))
    with partial_path(final).open("r+b") as file:
        file.seek(700)
        file.write(b"\x00\x01\x02")
    with PartialFile(final, 1000, IDENTITY, resume=True) as out:
        assert out.kept(0, 500)
        assert not out.kept(500, 500)


def test_torn_journal_line_is_ignored(tmp_path: Path) -> None:
    final = tmp_path / "out.gguf"
    with PartialFile(final, 1000, IDENTITY) as out:
        out.write(0, data(500))
        out.write(500, data(500, 1))
    journal = journal_path(final)
    journal.write_text(journal.read_text()[:-4])
    with PartialFile(final, 1000, IDENTITY, resume=True) as out:
        assert out.done_nbytes == 500


def test_unfinished_run_is_not_lost_by_forgetting_resume(tmp_path: Path) -> None:
    final = tmp_path / "out.gguf"
    with PartialFile(final, 1000, IDENTITY) as out:
        out.write(0, data(500))
    with pytest.raises(OutputError, match=r"unfinished run \(500 of 1000 bytes\).*--resume.*--restart"):
        PartialFile(final, 1000, IDENTITY)
    assert partial_path(final).exists()


def test_other_settings_are_not_continued(tmp_path: Path) -> None:
    final = tmp_path / "out.gguf"
    with PartialFile(final, 1000, IDENTITY) as out:
        out.write(0, data(500))
    with pytest.raises(OutputError, match="another source or with other settings"):
        PartialFile(final, 1000, "cd" * 32, resume=True)


def test_bytes_without_a_journal_are_not_trusted(tmp_path: Path) -> None:
    final = tmp_path / "out.gguf"
    partial_path(final).write_bytes(b"x" * 1000)
    with PartialFile(final, 1000, IDENTITY, resume=True) as out:
        assert out.done_nbytes == 0


def test_too_little_space_is_an_error_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"big.gguf needs 1152921504606846976 bytes, \d+ are free"):
        check_space(tmp_path, 1 << 60, "big.gguf")


def test_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"out.gguf.partial: Not a directory.*-o"):
        PartialFile(tmp_path / "file" / "out.gguf", 10, IDENTITY)


def test_a_full_disk_is_found_when_the_space_is_claimed(tmp_path: Path) -> None:
    code = f"""
import resource, signal
from pathlib import Path
from ggufkit.errors import InputError, OutputError
from ggufkit.formats import partial
from ggufkit.formats.partial import PartialFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    PartialFile(Path({str(tmp_path / "out.gguf")!r}), 2 << 20, "ab")
except OutputError as error:
    print("refused:", error)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("refused:")
    assert "File too large" in shown.stdout
    assert os.listdir(tmp_path) == []


def test_two_runs_never_write_one_output(tmp_path: Path) -> None:
    final, content = tmp_path / "out.gguf", data(1000)
    with PartialFile(final, 1000, IDENTITY) as out:
        out.write(0, content[:400])
        with pytest.raises(OutputError, match="being written by another run"):
            PartialFile(final, 1000, IDENTITY, resume=True)
        with pytest.raises(OutputError, match="being written by another run"):
            discard_unfinished(final)
        with pytest.raises(OutputError, match="being written by another run"):  # not "unfinished": it is at work
            PartialFile(final, 1000, IDENTITY)
        out.write(400, content[400:])
        out.finish()
    assert final.read_bytes() == content.tobytes()


def test_space_claimed_on_top_of_an_earlier_run_is_kept_with_its_work(tmp_path: Path, monkeypatch) -> None:
    final = tmp_path / "out.gguf"
    with PartialFile(final, 1000, IDENTITY) as out:
        out.write(0, data(500))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OutputError, match="No space left"):
        PartialFile(final, 1000, IDENTITY, resume=True)
    monkeypatch.undo()
    with PartialFile(final, 1000, IDENTITY, resume=True) as out:
        assert out.done_nbytes == 500


def test_a_journal_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    final = tmp_path / "out.gguf"
    partial_path(final).write_bytes(b"x" * 1000)
    os.mkfifo(journal_path(final))
    with pytest.raises(InputError, match="not a regular file"):
        PartialFile(final, 1000, IDENTITY, resume=True)


def test_the_disk_is_given_work_while_others_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "_SYNC_EVERY", 400)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with PartialFile(tmp_path / "out.gguf", 1000, IDENTITY) as out:
        for at in range(0, 1000, 100):
            out.write(at, data(100))
    assert len(synced) == 2
