"""`SourceFile`, `MemoryFile`: bytes at offsets, from any thread, and whether they are still the ones that were there.

Files are read with `pread`, never mapped: a file that shrinks while it is read gives an error, not SIGBUS. Half of the
files that the process may hold open are kept open; the longest unused one is closed for the next. Knows no format.
"""

import errno
import functools
import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError
from ggufkit.formats.files import shown

U8Array = NDArray[np.uint8]


class Stamp(NamedTuple):
    """What changes when a file is overwritten or replaced."""

    device: int
    inode: int
    nbytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class SourceFile:
    """A file opened for reading at offsets. Opened on first use, again where it had to be closed; `close` when done.

    expected  size in bytes and time in ns of the last change that it must have, where another process knows them
    """

    def __init__(self, path: Path, expected: tuple[int, int] | None = None) -> None:
        self._fd, self._n_readers = -1, 0
        self._stamp: Stamp | None = None
        self._expected = expected
        self.path = path

    def pread(self, offset: int, nbytes: int) -> U8Array:
        """Exactly `nbytes` bytes at `offset`. Raises InputError where the file ends before or cannot be read."""
        out = np.empty(nbytes, dtype=np.uint8)
        done = 0
        view = out.data
        with _opened(self) as fd:
            while done < nbytes:
                try:
                    got = os.preadv(fd, [view[done:]], offset + done)
                except OSError as error:
                    raise self._unreadable(error, offset + done) from error
                if got == 0:
                    raise InputError(
                        f"{self.path}: ended at byte {offset + done}, wanted {nbytes} bytes at {offset}. "
                        "The file changed while it was read."
                    )
                done += got
        return out

    def require_unchanged(self) -> None:
        """Raise InputError where the file at the path is not the one that was opened, or was written to since."""
        if self._stamp is None:
            return
        try:
            now = Stamp.of(self.path.stat())
        except OSError as error:
            raise self._changed(error.strerror or "gone") from error
        if now != self._stamp:
            raise self._changed("another file" if now[:2] != self._stamp[:2] else "size or time are others")

    def was_overwritten(self) -> bool:
        """Whether the very file that was opened has been written to since; not where another took its name."""
        try:
            now = Stamp.of(self.path.stat())
        except OSError:
            return False
        return self._stamp is not None and now[:2] == self._stamp[:2] and now != self._stamp

    def close(self) -> None:
        """Give the file back; reading opens it again."""
        _forget(self)

    def require_expected(self) -> None:
        """Raise InputError where the file cannot be opened, or is not the expected one."""
        self.pread(0, 0)

    @property
    def seen_elsewhere(self) -> tuple[str, int, int]:
        """Path, size in bytes and time in ns: what another process needs to find the same file; see `at`."""
        stamp = self._stamp or Stamp.of(self.path.stat())
        return str(self.path.absolute()), stamp.nbytes, stamp.mtime_ns

    @staticmethod
    @functools.lru_cache(maxsize=4096)
    def at(path: str, nbytes: int, mtime_ns: int) -> "SourceFile":
        """That file here: one object, however often it is asked for."""
        return SourceFile(Path(path), expected=(nbytes, mtime_ns))

    def __reduce__(self) -> tuple[Callable[..., "SourceFile"], tuple[Any, ...]]:
        return SourceFile.at, self.seen_elsewhere

    def __del__(self, at_exit: Callable[[], bool] = sys.is_finalizing) -> None:  # then modules' names are gone
        if self._fd >= 0 and not at_exit():  # a caller that drops a refused file need not remember to close it
            self.close()

    def _open(self) -> int:
        fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        stamp = Stamp.of(os.fstat(fd))
        if self._stamp not in (None, stamp):
            os.close(fd)
            raise self._changed("opened again, it is another")
        if self._expected not in (None, stamp[2:]):
            os.close(fd)
            raise InputError(
                f"{shown(str(self.path))} is not the file that is being quantized: bytes and time in ns are "
                f"{stamp[2:]}, wanted {self._expected}. Use a path that all machines share."
            )
        self._stamp = stamp
        return fd

    def _changed(self, how: str) -> InputError:
        return InputError(
            f"{shown(str(self.path))} changed while it was read ({how}): what was read does not belong together. "
            "Wait until it is complete, then run again."
        )

    def _unreadable(self, error: OSError, at: int) -> InputError:
        return InputError(
            f"{self.path}: cannot be read at byte {at}: {error.strerror}. Check its permissions and its disk."
        )


class MemoryFile(SourceFile):
    """Bytes that were computed, not stored (RoPE factors). Read like a file; `path` says what made them."""

    def __init__(self, path: Path, data: bytes) -> None:
        super().__init__(path)
        self._data = np.frombuffer(data, dtype=np.uint8)

    def __reduce__(self) -> tuple[Callable[..., SourceFile], tuple[Any, ...]]:
        return MemoryFile, (self.path, self._data.tobytes())

    def pread(self, offset: int, nbytes: int) -> U8Array:
        """Exactly `nbytes` bytes at `offset`. Raises InputError where the data ends before."""
        if not 0 <= offset <= offset + nbytes <= self._data.size:
            raise InputError(f"{self.path}: has {self._data.size} bytes, wanted {nbytes} at {offset}.")
        return self._data[offset : offset + nbytes].copy()


_lock = threading.RLock()  # of all that follows, and of each file's descriptor; a finalizer may run inside
_kept: OrderedDict[int, weakref.ref[SourceFile]] = OrderedDict()  # open files by id, the longest unused first


_ceiling = [1 << 16]  # of open files, lowered where the system had no more to give


@contextmanager
def _opened(file: SourceFile) -> Iterator[int]:
    """The file's descriptor, which stays open inside."""
    with _lock:
        if file._fd < 0:
            _make_room()
            try:
                file._fd = _descriptor(file)
            except OSError as error:
                raise file._unreadable(error, 0) from error
        _kept[id(file)] = weakref.ref(file)
        _kept.move_to_end(id(file))
        file._n_readers += 1
    try:
        yield file._fd
    finally:
        with _lock:
            file._n_readers -= 1


def _make_room() -> None:
    """Close the longest unused files beyond half of what may be open, or of what could be at the worst."""
    most = min(_most_open(), _ceiling[0])
    for kept in list(_kept.values())[: max(0, len(_kept) + 1 - most)]:
        file = kept()
        if file is not None and not file._n_readers:
            _forget(file)


def _descriptor(file: SourceFile) -> int:
    """The file opened; with half as many of ours from then on where sockets and the like hold too many."""
    try:
        return file._open()
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        _ceiling[0] = max(1, len(_kept) // 2)
        _make_room()
        return file._open()


def _most_open() -> int:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 16 if soft == resource.RLIM_INFINITY else max(4, soft // 2)


def _forget(file: SourceFile) -> None:
    with _lock:
        _kept.pop(id(file), None)
        if file._fd >= 0:
            os.close(file._fd)
            file._fd = -1
