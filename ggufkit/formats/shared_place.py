"""`SharedPlace`: an unfinished output that other processes write into, as far as they share its folder.

A token beside the output tells them: who reads the right one sees the folder, and the run that asked is still at work.
The owner records what was written; see `PartialFile.record`. Knows paths and bytes.
"""

import os
import platform
import secrets
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import OutputError

U8Array = NDArray[np.uint8]


class Range(NamedTuple):
    """A finished span of the output and the checksum of its bytes."""

    offset: int
    nbytes: int
    crc: int


class SharedPlace(NamedTuple):
    """The file, the token, what the token says, and the name of the machine that owns them."""

    path: Path
    token: Path
    secret: str
    host: str

    @property
    def is_seen(self) -> bool:
        """Whether this process sees the folder, and its owner is still at work."""
        try:
            return self.token.read_text() == self.secret and os.access(self.path, os.W_OK)
        except OSError:
            return False

    @contextmanager
    def opened(self) -> Iterator[Callable[[int, U8Array], Range]]:
        """A function that writes at an offset. When the block is left, the owner sees all of it, on any machine."""
        fd = os.open(self.path, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))

        def write(offset: int, data: U8Array) -> Range:
            if not self.is_seen:
                raise OutputError(f"{self.path}: the run that this was for is over.")
            return write_at(fd, offset, data)

        try:
            yield write
            if platform.node() != self.host:
                os.fsync(fd)  # the owner's own does not reach what another machine holds back
        finally:
            os.close(fd)


@contextmanager
def shared(path: Path, token: Path) -> Iterator[SharedPlace]:
    """The file at `path` for other processes to write into, until the block is left."""
    place = SharedPlace(path.absolute(), token.absolute(), secrets.token_hex(16), platform.node())
    token.write_text(place.secret)
    try:
        yield place
    finally:
        token.unlink(missing_ok=True)


def write_at(fd: int, offset: int, data: U8Array) -> Range:
    """Write all of `data` there."""
    view = np.ascontiguousarray(data).reshape(-1).data
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
    return Range(offset, len(view), zlib.crc32(view))
