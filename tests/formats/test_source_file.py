"""Files stay readable whatever the limit of open files, and a file that changed meanwhile is told."""

import gc
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggufkit.errors import InputError
from ggufkit.formats.source_file import SourceFile


@pytest.fixture
def low_limit() -> Iterator[int]:
    """A soft limit of open files a little above what is open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = len(os.listdir("/dev/fd")) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="counts open files there")
def test_more_files_than_may_be_open(low_limit: int, tmp_path: Path) -> None:
    files = []
    for i in range(3 * low_limit):
        (tmp_path / str(i)).write_bytes(b"%05d" % i)
        files.append(SourceFile(tmp_path / str(i)))
    for _ in range(2):
        for i, file in enumerate(files):
            assert file.pread(0, 5).tobytes() == b"%05d" % i
    before = len(os.listdir("/dev/fd"))
    del files, file
    gc.collect()
    assert len(os.listdir("/dev/fd")) < before


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="counts open files there")
def test_others_that_hold_nearly_all_leave_files_readable(low_limit: int, tmp_path: Path) -> None:
    held = [os.open(tmp_path, os.O_RDONLY) for _ in range(14)]  # six are left, far below half of the limit
    try:
        files = []
        for i in range(12):
            (tmp_path / str(i)).write_bytes(b"%05d" % i)
            files.append(SourceFile(tmp_path / str(i)))
        for _ in range(2):
            assert [file.pread(0, 5).tobytes() for file in files] == [b"%05d" % i for i in range(12)]
    finally:
        for fd in held:
            os.close(fd)


def test_a_file_that_outlives_its_module_at_exit_says_nothing() -> None:
    """Names of a module are gone by then; the system closes the file."""
    code = """if True:
        import sys, types
        from pathlib import Path
        holder = sys.modules["holder"] = types.ModuleType("holder")  # is cleared after those that were imported later
        from ggufkit.formats import source_file
        holder.file = source_file.SourceFile(Path(sys.executable))
        holder.file.pread(0, 1)
        sys.kept = holder, source_file
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr == ""


def changed(path: Path, how: str) -> None:
    status = path.stat()
    if how == "overwritten":
        path.write_bytes(b"B" * 100)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif how == "longer":
        with path.open("ab") as file:
            file.write(b"more")
    elif how == "replaced":
        path.with_name("new").write_bytes(b"A" * 100)
        path.with_name("new").replace(path)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["overwritten", "longer", "replaced", "gone"])
def test_a_file_that_changes_while_it_is_read_is_told(how: str, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(b"A" * 100)
    file = SourceFile(path)
    file.require_unchanged()  # nothing was read yet
    file.pread(0, 10)
    file.require_unchanged()
    changed(path, how)
    assert file.was_overwritten() == (how in ("overwritten", "longer"))
    with pytest.raises(InputError, match=r"source changed while it was read"):
        file.require_unchanged()
    if how != "gone":
        file.close()
        with pytest.raises(InputError, match="changed while it was read"):
            file.pread(0, 10)
