"""`PartialFile`: an output that is either complete under its final name or not there at all.

Bytes go to `NAME.partial`; each finished range is recorded in `NAME.partial.journal` with its checksum, so that a
later run with the same identity keeps every range that is really on the disk and goes on from there.
Knows files, ranges and checksums. Does not know what the bytes mean.

Journal, one line each:
    {"schema": "ggufkit/journal@1", "identity": "<hex>", "nbytes": 123}
    offset nbytes crc32
"""

import bisect
import contextlib
import errno
import json
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import OutputError
from ggufkit.formats.outputs import followed
from ggufkit.formats.shared_place import Range, SharedPlace, shared, write_at
from ggufkit.formats.unfinished import (
    check_unfinished,
    discard_bytes,
    discard_unfinished,
    journal_path,
    kept_path,
    lock,
    new_journal_path,
    partial_path,
    read_journal,
    token_path,
)

SCHEMA = "ggufkit/journal@1"
_VERIFY_CHUNK = 8 << 20
_SYNC_EVERY = 64 << 20  # bytes: the disk is at work while others are computed, and has little left to do at the end
_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


class PartialFile:
    """Preallocated output of `nbytes` bytes; `write` from any thread, then `finish`.

    identity  hex digest of all that decides the bytes; a journal of another identity is not continued
    resume    continue an unfinished file of the same identity; without it an unfinished file is an error
    on_verified  called with the bytes of an earlier run that were read again and are whole, as they grow
    """

    def __init__(
        self,
        final: Path,
        nbytes: int,
        identity: str,
        *,
        resume: bool = False,
        on_verified: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.final = final
        self.nbytes = nbytes
        self._lock = threading.Lock()
        self._rows: list[Range] = []
        self._unsynced = 0
        self._fd = -1
        earlier: list[Range] = []
        try:
            earlier = self._earlier(identity, resume)
            self._fd = os.open(partial_path(final), os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            lock(self._fd, partial_path(final))
            self._reserve()
            self._rows = list(self._still_there(earlier, on_verified))
            self._start_journal(identity)
        except BaseException as error:
            self._give_up(keep=bool(earlier) or not isinstance(error, OSError))
            if not isinstance(error, OSError):
                raise
            raise OutputError(f"{partial_path(final)}: {error.strerror}. Choose another place with -o.") from error
        self._kept = _merge(self._rows)
        self._done_nbytes = sum(row.nbytes for row in self._rows)

    @property
    def done_nbytes(self) -> int:
        """Bytes that are written and recorded."""
        return self._done_nbytes

    def kept(self, offset: int, nbytes: int) -> bool:
        """Whether an earlier run left that range complete."""
        at = bisect.bisect_right(self._kept, (offset, self.nbytes)) - 1
        return at >= 0 and offset + nbytes <= self._kept[at][1]

    def write(self, offset: int, data: NDArray[np.uint8]) -> None:
        """Write at `offset` and record it. Any thread."""
        self.record(write_at(self._fd, offset, data))
        if self._sync_is_due(data.nbytes):
            os.fsync(self._fd)

    def record(self, row: Range) -> None:
        """That range is written, here or by a worker that shares the folder (`share`). Any thread."""
        with self._lock:
            self._rows.append(row)
            self._done_nbytes += row.nbytes
            self._journal.write(f"{row.offset} {row.nbytes} {row.crc}\n")
            self._journal.flush()

    def _sync_is_due(self, nbytes: int) -> bool:
        with self._lock:
            self._unsynced += nbytes
            if is_due := self._unsynced >= _SYNC_EVERY:
                self._unsynced = 0
            return is_due

    def share(self) -> AbstractContextManager[SharedPlace]:
        """What other processes need to write into it as long as the block lasts; see `record`."""
        return shared(partial_path(self.final), token_path(self.final))

    def finish(self) -> None:
        """Make it durable and give it its final name. Raises OutputError where a range is missing."""
        if _merge(self._rows) != [(0, self.nbytes)]:
            raise OutputError(f"{self.final}: {self.done_nbytes} of {self.nbytes} bytes written; not finished.")
        os.fsync(self._fd)
        self.close()
        partial_path(self.final).replace(followed(self.final))
        _sync_folder(followed(self.final).parent)
        for path in (journal_path(self.final), token_path(self.final)):  # a token that a killed run left
            path.unlink(missing_ok=True)
        shutil.rmtree(kept_path(self.final), ignore_errors=True)

    def discard(self) -> None:
        """Remove what was written, and what is kept beside it."""
        self.close()
        discard_unfinished(self.final)

    def close(self) -> None:
        """Release the files; what is written stays for `resume`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._journal.close()
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _give_up(self, *, keep: bool) -> None:
        """Close what could not be begun and, unless an earlier run's work is in it, give back the space claimed."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if not keep:
            with contextlib.suppress(OSError):
                discard_bytes(self.final)

    def _earlier(self, identity: str, resume: bool) -> list[Range]:
        partial, journal = partial_path(self.final), journal_path(self.final)
        if not (journal.exists() and partial.exists()):
            discard_bytes(self.final)  # one without the other: nobody vouches for the bytes
            return []
        check_unfinished(self.final, resume=resume)
        found, rows = read_journal(journal)
        if found != identity:
            raise OutputError(
                f"{partial} was made from another source or with other settings. "
                "Run with the settings it was started with, or start again with --restart."
            )
        return rows

    def _still_there(self, earlier: list[Range], on_verified: Callable[[int], None]) -> Iterator[Range]:
        found = 0
        for row in earlier:
            if self._verified(row):
                found += row.nbytes
                on_verified(found)
                yield row

    def _verified(self, row: Range) -> bool:
        """Whether the bytes on the disk are the ones that were recorded."""
        if row.nbytes <= 0 or row.offset + row.nbytes > self.nbytes:
            return False
        crc, stop = 0, row.offset + row.nbytes
        for start in range(row.offset, stop, _VERIFY_CHUNK):
            crc = zlib.crc32(os.pread(self._fd, min(_VERIFY_CHUNK, stop - start), start), crc)
        return crc == row.crc

    def _start_journal(self, identity: str) -> None:
        """A journal with what was kept takes the place of the old one in a single step."""
        fresh = new_journal_path(self.final)
        self._journal = fresh.open("w", encoding="ascii")
        self._journal.write(json.dumps({"schema": SCHEMA, "identity": identity, "nbytes": self.nbytes}) + "\n")
        self._journal.writelines(f"{row.offset} {row.nbytes} {row.crc}\n" for row in self._rows)
        self._journal.flush()
        fresh.replace(journal_path(self.final))

    def _reserve(self) -> None:
        """Claim the space now, so that a full disk is an error before the work, not after."""
        try:
            os.posix_fallocate(self._fd, 0, max(1, self.nbytes))
        except AttributeError:
            pass  # macOS has no posix_fallocate
        except OSError as error:
            if error.errno not in _NO_FALLOCATE:
                raise
        os.ftruncate(self._fd, self.nbytes)


def _merge(rows: list[Range]) -> list[tuple[int, int]]:
    """Disjoint (start, stop) spans in order that the ranges cover together."""
    spans: list[tuple[int, int]] = []
    for start, nbytes, _ in sorted(rows):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], start + nbytes))
        else:
            spans.append((start, start + nbytes))
    return spans


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
