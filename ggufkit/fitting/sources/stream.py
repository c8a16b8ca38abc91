"""The residual stream of a corpus on disk: what goes into a layer, for every token.

    FOLDER/stream-17.f32   (n_chunk, n_ctx, n_embd) float32: what goes into layer 17
    FOLDER/streams.json    {"schema": …, "identity": …, "shape": …, "crc": {"17": [one a chunk]}}

A stream counts once all of it is written and its checksums are recorded; so a run that is killed finds what the last
finished layer gave. Float32: in F16 the few columns that run to thousands would lose what the others add. Knows
arrays and files. Does not know models.
"""

import fcntl
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import OutputError
from ggufkit.formats.atomic import write_atomic
from ggufkit.formats.unfinished import check_space

F32Array = NDArray[np.float32]
Shape = tuple[int, int, int]  # n_chunk, n_ctx, n_embd

SCHEMA = "ggufkit/streams@1"


class Streams:
    """Streams of one corpus in a folder of their own, which is made, and which `discard` removes.

    Raises OutputError where the folder cannot be made, or another run is at work in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shape: Shape = (0, 0, 0)
        self._identity = ""
        self._crc: dict[int, list[int]] = {}
        try:
            folder.mkdir(exist_ok=True)
            self._lock_fd = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise OutputError(f"{folder}: {error.strerror}. Choose another place with -o.") from error
        try:
            self._lock()
        except BaseException:
            self.close()
            raise

    def begin(self, identity: str, shape: Shape, *, n_stream: int = 2) -> None:
        """Find what an earlier run left. Raises OutputError for a disk that is too small.

        identity  all that decides what is in the streams; files of another identity are dropped
        n_stream  streams that lie there at once
        """
        self._identity, self.shape = identity, shape
        self._read_state()
        self._drop_others()
        check_space(
            self.folder, (n_stream - len(self._crc)) * self.nbytes, "the residual stream of the calibration text"
        )
        self._write_state()

    @property
    def nbytes(self) -> int:
        """Bytes of one stream; two lie on the disk while a layer is run."""
        return 4 * int(np.prod(self.shape))

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers whose inputs are there, in order."""
        return tuple(sorted(self._crc))

    def read(self, layer: int) -> Iterator[F32Array]:
        """What goes into the layer, chunk by chunk (n_ctx, n_embd). Raises OutputError where it was damaged."""
        return self.stored(layer).chunks()

    def stored(self, layer: int) -> "StoredStream":
        """The same as a value that other processes can read."""
        _, n_ctx, n_embd = self.shape
        return StoredStream(self._path(layer).absolute(), tuple(self._crc[layer]), n_ctx, n_embd)

    @contextmanager
    def writing(self, layer: int) -> Iterator["Writer"]:
        """A writer of the layer's inputs; they count when the block is left without an error and all were written."""
        writer = Writer(self._path(layer))
        try:
            yield writer
        finally:
            writer.close()
        if len(writer.crc) == self.shape[0]:
            self._crc[layer] = writer.crc
            self._write_state()

    def drop_before(self, layer: int) -> None:
        """Forget the inputs of layers before that one."""
        self._drop(number for number in self._crc if number < layer)

    def drop_behind(self, layer: int) -> None:
        """Forget those of layers behind that one."""
        self._drop(number for number in self._crc if number > layer)

    def _drop(self, numbers: Iterable[int]) -> None:
        for old in list(numbers):
            del self._crc[old]
            self._write_state()
            self._path(old).unlink(missing_ok=True)

    def close(self) -> None:
        """Release the folder; what is in it stays."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def give_up(self) -> None:
        """Release the folder, and remove it where there is nothing in it to go on with."""
        self.close()
        if self._identity and not self._crc:
            self.discard()
        with suppress(OSError):
            self.folder.rmdir()

    def discard(self) -> None:
        """Remove the folder."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, layer: int) -> Path:
        return self.folder / f"stream-{layer}.f32"

    @property
    def _state(self) -> Path:
        return self.folder / "streams.json"

    def _lock(self) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"{self.folder} is used by another run. Wait for it, or choose another name with -o."
            ) from error
        except OSError:
            return  # some network disks have no locks

    def _read_state(self) -> None:
        found: dict[int, list[int]] = {}
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            if (state["schema"], state["identity"], tuple(state["shape"])) != (SCHEMA, self._identity, self.shape):
                raise ValueError("another text or model")
            for layer, crc in state["crc"].items():
                path = self._path(int(layer))
                if path.is_file() and path.stat().st_size == self.nbytes and len(crc) == self.shape[0]:
                    found[int(layer)] = [int(value) for value in crc]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            for path in self.folder.iterdir():
                path.unlink()
        self._crc = found

    def _drop_others(self) -> None:
        for path in self.folder.glob("stream-*.f32"):
            if path not in {self._path(layer) for layer in self._crc}:
                path.unlink()

    def _write_state(self) -> None:
        state = {"schema": SCHEMA, "identity": self._identity, "shape": self.shape, "crc": self._crc}
        write_atomic(self._state, [json.dumps(state).encode()])


class StoredStream(NamedTuple):
    """A stream that is complete: its file, a checksum a chunk, and the shape of a chunk."""

    path: Path
    crc: tuple[int, ...]
    n_ctx: int
    n_embd: int

    def chunks(self) -> Iterator[F32Array]:
        """Chunk by chunk (n_ctx, n_embd). Raises OutputError where it was damaged."""
        nbytes = 4 * self.n_ctx * self.n_embd
        with self.path.open("rb") as file:
            for crc in self.crc:
                raw = file.read(nbytes)
                if len(raw) != nbytes or zlib.crc32(raw) != crc:
                    raise OutputError(
                        f"{self.path} is damaged: the disk lost what was written. Remove the folder and run again."
                    )
                yield np.frombuffer(raw, dtype=np.float32).reshape(self.n_ctx, self.n_embd)


class Writer:
    """Chunks of one stream, in order."""

    def __init__(self, path: Path) -> None:
        self.crc: list[int] = []
        self._path = path
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}.") from error

    def write(self, x: F32Array) -> None:
        """The next chunk (n_ctx, n_embd)."""
        raw = np.ascontiguousarray(x, dtype=np.float32).tobytes()
        try:
            self._file.write(raw)
        except OSError as error:
            raise OutputError(f"{self._path}: {error.strerror}. Make room on that disk and run again.") from error
        self.crc.append(zlib.crc32(raw))

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()
