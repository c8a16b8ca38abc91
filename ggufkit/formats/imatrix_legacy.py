"""llama.cpp's older importance files (.dat). Little-endian, no magic; experts are not told apart in the counts.

    i32 n_entries, then for each: i32 len, name, i32 ncall, i32 nval, nval × f32
    optional: i32 chunk_count, i32 len, name of the text

The values are means times ncall. Knows the layout; `imatrix` knows what the values mean.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import ImatrixError
from ggufkit.formats.files import disguise, shown

F32Array = NDArray[np.float32]

_MAX_NAME = 1024
_DAMAGED = "The file is damaged; make it again with llama-imatrix."


class LegacyImatrix(NamedTuple):
    """Rows of name, ncall and values (n_mat * n_per_row,); chunk_count 0 and dataset "" where they are absent.

    trailing_nbytes  behind the end; llama.cpp does not read them either
    """

    rows: list[tuple[str, int, F32Array]]
    chunk_count: int
    dataset: str
    trailing_nbytes: int


def parse_legacy(raw: bytes, path: Path) -> LegacyImatrix:
    """Content of a whole file. Raises ImatrixError; `path` is for its message."""
    if what := disguise(raw[:64]):
        raise ImatrixError(f"{path} {what}")
    reader = _Reader(raw, path)
    rows, seen = [], set[str]()
    for row in reader.rows():
        if row[0] in seen:
            raise ImatrixError(f"{path}: {shown(row[0])} appears twice. {_DAMAGED}")
        seen.add(row[0])
        rows.append(row)
    return LegacyImatrix(rows, *reader.trailer(), len(raw) - reader.pos)


class _Reader:
    """Position in a legacy file."""

    def __init__(self, raw: bytes, path: Path) -> None:
        self.raw, self.path, self.pos = raw, path, 0

    def take(self, nbytes: int, what: str) -> bytes:
        left = len(self.raw) - self.pos
        if not 0 <= nbytes <= left:
            raise ImatrixError(
                f"{self.path}: {what} at byte {self.pos} wants {nbytes} bytes, {left} are left. "
                "This is not an importance file of llama.cpp, or it is cut short."
            )
        self.pos += nbytes
        return self.raw[self.pos - nbytes : self.pos]

    def i32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little", signed=True)

    def text(self, what: str) -> str:
        raw = self.take(min(self.i32(what), _MAX_NAME + 1), what)
        if len(raw) > _MAX_NAME or b"\0" in raw:
            raise ImatrixError(f"{self.path}: {what} at byte {self.pos} is not text. {_DAMAGED}")
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise ImatrixError(f"{self.path}: {what} at byte {self.pos} is not UTF-8. {_DAMAGED}") from error

    def rows(self) -> Iterator[tuple[str, int, F32Array]]:
        n_entries = self.i32("the number of entries")
        if n_entries < 1:
            raise ImatrixError(f"{self.path}: {n_entries} entries. This is not an importance file of llama.cpp.")
        for _ in range(n_entries):
            name = self.text("a name")
            ncall, nval = self.i32(f"the calls of {shown(name)}"), self.i32(f"the length of {shown(name)}")
            values = np.frombuffer(self.take(4 * nval, f"the values of {shown(name)}"), dtype="<f4")
            yield name, ncall, values

    def trailer(self) -> tuple[int, str]:
        """Chunks and the name of the text, both optional: nothing is computed with them, so they may be cut, too."""
        start, chunk_count, dataset = self.pos, 0, ""
        try:
            if self.pos < len(self.raw):
                chunk_count = max(0, self.i32("the number of chunks"))
            if self.pos < len(self.raw):
                dataset = self.text("the name of the text")
        except ImatrixError:
            self.pos = start
        return chunk_count, dataset
