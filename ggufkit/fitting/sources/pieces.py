"""`Pieces`: what one layer gives, a file a chunk, while the next layer reads it on another worker.

FOLDER/token            what the run that asked says; once it is gone, the run is over
FOLDER/17/42.f32        what goes into layer 17 in chunk 42, and its checksum; there when it is complete
"""

import secrets
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import OutputError

F32Array = NDArray[np.float32]

PATIENCE_S = 900.0  # for the next chunk of a layer that nobody seems to run
_LOOK_EVERY_S = 0.05


class WaitedError(Exception):
    """Nobody gave the next chunk for a long time."""


class Pieces(NamedTuple):
    """Chunks (n_ctx, n_embd) that go into one layer.

    folder  that all workers share; secret  what its token says
    """

    folder: Path
    secret: str
    layer: int
    n_chunk: int
    n_ctx: int
    n_embd: int

    def write(self, index: int, x: F32Array) -> None:
        """Chunk `index`. Writing it again changes nothing. Raises OutputError where the run is over."""
        self._require_run()
        raw = np.ascontiguousarray(x, dtype=np.float32).tobytes()
        new = self._path(index).with_suffix(f".{secrets.token_hex(4)}")
        try:
            self._path(index).parent.mkdir(exist_ok=True)
            new.write_bytes(raw + zlib.crc32(raw).to_bytes(4, "little"))
            new.replace(self._path(index))
        except OSError as error:
            raise OutputError(f"{new}: {error.strerror}. Make room on that disk and run again.") from error

    def chunks(self) -> Iterator[F32Array]:
        """Chunk by chunk, each as soon as it is there. Raises WaitedError, OutputError where one is damaged."""
        for index in range(self.n_chunk):
            self._wait_for(index)
            raw = self._path(index).read_bytes()
            if len(raw) != 4 * self.n_ctx * self.n_embd + 4 or zlib.crc32(raw[:-4]) != int.from_bytes(
                raw[-4:], "little"
            ):
                raise OutputError(f"{self._path(index)} is damaged: the disk lost what was written. Run again.")
            yield np.frombuffer(raw[:-4], dtype=np.float32).reshape(self.n_ctx, self.n_embd)

    @property
    def n_there(self) -> int:
        """Chunks that are complete."""
        try:
            return sum(path.suffix == ".f32" for path in self._path(0).parent.iterdir())
        except OSError:
            return 0

    def _wait_for(self, index: int) -> None:
        started = time.monotonic()
        while not self._path(index).exists():
            self._require_run()
            if time.monotonic() - started > PATIENCE_S:
                raise WaitedError
            time.sleep(_LOOK_EVERY_S)

    def _require_run(self) -> None:
        if not is_seen(self.folder, self.secret):
            raise OutputError(f"{self.folder}: the run that this was for is over.")

    def _path(self, index: int) -> Path:
        return self.folder / str(self.layer) / f"{index}.f32"


def is_seen(folder: Path, secret: str) -> bool:
    """Whether this process sees the folder, and whoever made it is still at work."""
    try:
        return (folder / "token").read_text() == secret
    except OSError:
        return False
