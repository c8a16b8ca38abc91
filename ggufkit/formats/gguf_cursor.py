"""Reading values of a GGUF header one after the other: bounds, strings, numbers, arrays that are decoded later.

Knows how values are encoded and how many bytes are left. Does not know which values a header has.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Self, overload

import gguf
import numpy as np

from ggufkit.errors import GgufError
from ggufkit.formats.files import disguise, shown
from ggufkit.formats.source_file import SourceFile

MAGIC = b"GGUF"
MAX_HEADER_NBYTES = 256 << 20  # ten times the largest vocabulary with its merges
_FIRST_READ_NBYTES = 1 << 20
_AGAIN = "The download is probably cut short; fetch the file again"
_DAMAGED = "The file is damaged or was made to mislead"

_T = gguf.GGUFValueType
# struct's letter and numpy's little-endian type of every number
NUMBERS = {
    _T.UINT8: ("B", "<u1"), _T.INT8: ("b", "<i1"), _T.UINT16: ("H", "<u2"), _T.INT16: ("h", "<i2"),
    _T.UINT32: ("I", "<u4"), _T.INT32: ("i", "<i4"), _T.UINT64: ("Q", "<u8"), _T.INT64: ("q", "<i8"),
    _T.FLOAT32: ("f", "<f4"), _T.FLOAT64: ("d", "<f8"), _T.BOOL: ("?", "?"),
}  # fmt: skip
PACKERS = {kind: struct.Struct("<" + letter) for kind, (letter, _) in NUMBERS.items()}
_U32, _U64 = PACKERS[_T.UINT32], PACKERS[_T.UINT64]


class Cursor:
    """A position in a header; reads the file in growing steps, never past `nbytes` nor past MAX_HEADER_NBYTES."""

    def __init__(self, file: SourceFile, nbytes: int) -> None:
        self.file = file
        self.nbytes = nbytes
        self.pos = 0
        self._buffer = b""

    def error(self, what: str, advice: str = _DAMAGED) -> GgufError:
        return GgufError(f"{self.file.path}: {what}. {advice}.")

    def cut_short(self, what: str) -> GgufError:
        return self.error(what, _AGAIN)

    def bound(self, nbytes: int, what: str) -> None:
        """Raise GgufError unless `nbytes` more bytes can be there."""
        left = self.nbytes - self.pos
        if nbytes > left:
            raise self.cut_short(f"{what} at byte {self.pos}: {nbytes} bytes are wanted, {left} are left")
        if self.pos + nbytes > MAX_HEADER_NBYTES:
            raise self.error(
                f"{what} at byte {self.pos}: {nbytes} bytes make the header larger than {MAX_HEADER_NBYTES}"
            )

    def take(self, nbytes: int, what: str) -> bytes:
        """The next `nbytes` bytes."""
        self.bound(nbytes, what)
        start, self.pos = self.pos, self.pos + nbytes
        if self.pos > len(self._buffer):
            self._fill(self.pos)
        return self._buffer[start : self.pos]

    def _fill(self, stop: int) -> None:
        have = len(self._buffer)
        want = min(self.nbytes, max(stop, 2 * have, _FIRST_READ_NBYTES))
        self._buffer += self.file.pread(have, want - have).tobytes()

    def expect_magic(self) -> None:
        if self.nbytes < len(MAGIC):
            raise self.cut_short(f"{self.nbytes} bytes are too few for a GGUF file")
        head = self.file.pread(0, min(self.nbytes, 64)).tobytes()
        if not head.startswith(MAGIC):
            what = disguise(head)
            raise GgufError(
                f"{self.file.path} {what}"
                if what
                else f"{self.file.path} begins with {head[:4]!r}, wanted {MAGIC!r}: it is not a GGUF file."
            )
        self.pos = len(MAGIC)

    def u32(self, what: str) -> int:
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack(self.take(8, what))[0])

    def value_type(self, key: str) -> gguf.GGUFValueType:
        number = self.u32(f"the type of {shown(key)}")
        try:
            kind: gguf.GGUFValueType = _T(number)
        except ValueError:
            raise self.error(f"key {shown(key)} has unknown type {number}, wanted 0 to {max(_T)}") from None
        return kind

    def string(self, what: str, max_nbytes: int = MAX_HEADER_NBYTES) -> str:
        nbytes = self.u64(what)
        if nbytes > max_nbytes:
            raise self.error(f"{what} at byte {self.pos - 8} has {nbytes} bytes, at most {max_nbytes} are allowed")
        raw = self.take(nbytes, what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(f"{what} at byte {self.pos - nbytes} is not UTF-8: {raw[:40]!r}") from None

    def name(self, what: str, max_nbytes: int) -> str:
        text = self.string(what, max_nbytes)
        if "\0" in text:
            raise self.error(f"{what} holds a NUL: {shown(text)}")
        return text

    def skip_strings(self, count: int, what: str) -> bytes:
        """Bytes of the next `count` strings. The one loop that grows with the vocabulary, so it is kept bare."""
        self.bound(8 * count, what)
        length, pos, left = _U64.unpack_from, self.pos, iter(range(count))
        while True:
            buffer = self._buffer
            try:
                for _ in left:
                    pos += 8 + length(buffer, pos)[0]
                break
            except (struct.error, OverflowError):  # the next length lies beyond the buffer
                self.bound(pos + 8 - self.pos, what)
                self._fill(pos + 8)
                pos += 8 + length(self._buffer, pos)[0]
        return self.take(pos - self.pos, what)


def read_value(cursor: Cursor, kind: gguf.GGUFValueType, key: str) -> Any:
    """A value other than an array."""
    what = f"the value of {shown(key)}"
    if kind is _T.STRING:
        return cursor.string(what)
    packer = PACKERS[kind]
    raw = cursor.take(packer.size, what)
    if kind is _T.BOOL and raw[0] > 1:
        raise cursor.error(f"{what} is the bool {raw[0]}, wanted 0 or 1")
    return packer.unpack(raw)[0]


class GgufArray(Sequence[Any]):
    """Items of a metadata array, decoded when they are first asked for; `raw` are their bytes as they stood.

    Equal to any sequence with the same items. Raises GgufError for strings that are not UTF-8, on first use.
    """

    __slots__ = ("_count", "_items", "_label", "item_type", "raw")

    def __init__(self, item_type: gguf.GGUFValueType, count: int, raw: bytes, label: str) -> None:
        self.item_type = item_type
        self.raw = raw
        self._count = count
        self._label = label
        self._items: list[Any] | None = None

    @classmethod
    def read(cls, cursor: Cursor, item_type: gguf.GGUFValueType, key: str) -> Self:
        """Step over an array whose item type has been read."""
        what = f"the items of {shown(key)}"
        count = cursor.u64(f"the length of {shown(key)}")
        label = f"{cursor.file.path}: {shown(key)}"
        if item_type is not _T.STRING:
            return cls(item_type, count, cursor.take(count * PACKERS[item_type].size, what), label)
        return cls(item_type, count, cursor.skip_strings(count, what), label)

    @classmethod
    def of_strings(cls, items: Sequence[str], raw: bytes, label: str) -> Self:
        """An array whose items are known."""
        out = cls(_T.STRING, len(items), raw, label)
        out._items = list(items)
        return out

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return iter(self._decoded())

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._decoded()[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GgufArray) and other.item_type is self.item_type:
            return self.raw == other.raw
        return isinstance(other, Sequence) and not isinstance(other, str | bytes) and self._decoded() == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"GgufArray({self.item_type.name}, {self._count} items)"

    def _decoded(self) -> list[Any]:
        if self._items is None:
            self._items = self._strings() if self.item_type is _T.STRING else self._numbers()
        return self._items

    def _numbers(self) -> list[Any]:
        items: list[Any] = np.frombuffer(self.raw, dtype=NUMBERS[self.item_type][1]).tolist()
        return items

    def raw_items(self) -> list[bytes]:
        """Bytes of the strings, whether they are UTF-8 or not."""
        items, raw, length, pos = [], self.raw, _U64.unpack_from, 0
        while pos < len(raw):
            stop = pos + 8 + length(raw, pos)[0]
            items.append(raw[pos + 8 : stop])
            pos = stop
        return items

    def _strings(self) -> list[str]:
        items: list[str] = []
        raw = self.raw_items()
        try:
            items.extend(item.decode() for item in raw)
        except UnicodeDecodeError as error:
            bad = raw.index(error.object)
            raise GgufError(f"{self._label}: item {bad} is not UTF-8: {raw[bad][:40]!r}.") from None
        return items
