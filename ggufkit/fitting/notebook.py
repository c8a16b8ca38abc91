"""`Notebook`: what a fitted run has found out so far, in a folder beside its output, for a run that continues it.

    identity         hex digest of all that decides what is found out; another one is not continued
    values.jsonl     measured figures: {"key": …, "value": …}, one a line, in the order they were found
    NAME.npz         arrays: of a walk through the text (what is small, and stays) and its moments (large, and goes)

Every file is complete or not there, and carries checksums; what cannot be read is found out again. A disk that is full
or slow costs the run its time and the chance to be continued, and nothing else. Knows folders and arrays, not what they
mean.
"""

import contextlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import OutputError
from ggufkit.formats.unfinished import nearest_folder

Arrays = Mapping[str, NDArray[Any]]
_SPARE_NBYTES = 256 << 20  # of the disk are never taken


class Notebook:
    """Remembers what it is told in `folder`; None remembers nothing.

    owed   bytes of the disk that others are going to take, as of now: the output itself, and what lies beside it
    stays  nothing is dropped: other runs of the same identity read it later on
    """

    def __init__(
        self, folder: Path | None, identity: str = "", *, owed: Callable[[], int] = lambda: 0, stays: bool = False
    ) -> None:
        self._folder, self._owed, self._stays = folder, owed, stays
        self._values: dict[str, Any] = {}
        if folder is not None:
            self._open(folder, identity)

    @property
    def n_values(self) -> int:
        """Figures that are known."""
        return len(self._values)

    def knows(self, key: str) -> bool:
        """Whether a value of that key was remembered."""
        return key in self._values

    def remember(self, key: str, find_out: Callable[..., Any], *args: Any) -> Any:
        """The value of that key: as an earlier run found it, else found out now and written down. JSON values."""
        if key not in self._values:
            self._values[key] = json.loads(json.dumps(find_out(*args)))  # the same value as a later run will read
            self._append({"key": key, "value": self._values[key]})
        return self._values[key]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that another run could use."""
        return self._folder is None or not ({path.name for path in self._folder.iterdir()} - {"identity"})

    def discard(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def folder(self) -> Path | None:
        """Where it is kept, None where nothing is."""
        return self._folder

    @property
    def room_nbytes(self) -> int:
        """Bytes that may still be kept."""
        return 0 if self._folder is None else room_in(self._folder, self._owed())

    def has(self, name: str) -> bool:
        """Whether arrays are kept under that name."""
        return self._folder is not None and self._path(name).exists()

    def save(self, name: str, arrays: Arrays) -> bool:
        """Keep these arrays under that name, in the place of what was there. False where the disk has no room."""
        if self._folder is None:
            return False
        path, new = self._path(name), self._path(name).with_suffix(".new")
        nbytes = sum(array.nbytes for array in arrays.values())
        with contextlib.suppress(OSError):
            if self.room_nbytes < nbytes:
                return False
            write_arrays(path, new, arrays)
            return True
        new.unlink(missing_ok=True)
        return False

    def load(self, name: str) -> dict[str, NDArray[Any]] | None:
        """The arrays kept under that name; None where there are none, or none that can be trusted."""
        if self._folder is None or not self._path(name).exists():
            return None
        try:
            with np.load(self._path(name), allow_pickle=False) as kept:
                return {key: kept[key] for key in kept.files}
        except (OSError, ValueError, zipfile.BadZipFile, EOFError):
            return None

    def drop(self, name: str) -> None:
        """Forget those arrays, unless they stay."""
        if self._folder is not None and not self._stays:
            self._path(name).unlink(missing_ok=True)

    def _open(self, folder: Path, identity: str) -> None:
        label = folder / "identity"
        try:
            if not label.exists():
                folder.mkdir(parents=self._stays, exist_ok=True)
                label.write_text(identity)
            elif label.read_text() != identity:
                raise OutputError(
                    f"{folder} is of another source, text or effort. Run with the settings it was started with, or "
                    "start again with --restart."
                )
            self._values = dict(self._read_values())
        except OSError as error:
            raise OutputError(f"{folder}: {error.strerror}. Choose another place with -o.") from error

    def _read_values(self) -> list[tuple[str, Any]]:
        """Whole lines of the file; a torn last one is cut off, so that the next one does not join it."""
        path = self._values_path()
        if not path.exists():
            return []
        raw = path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) != len(raw):
            os.truncate(path, len(whole))
        rows = []
        for line in io.BytesIO(whole):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                rows.append((row["key"], row["value"]))
        return rows

    def _append(self, row: dict[str, Any]) -> None:
        if self._folder is None:
            return
        with contextlib.suppress(OSError), self._values_path().open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")

    def _values_path(self) -> Path:
        assert self._folder is not None
        return self._folder / "values.jsonl"

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}.npz"


def room_in(folder: Path, owed_nbytes: int) -> int:
    """Bytes that a notebook may keep in that folder, which need not be there yet, when so many belong to others."""
    return max(0, shutil.disk_usage(nearest_folder(folder)).free - owed_nbytes - _SPARE_NBYTES)


def write_arrays(path: Path, new: Path, arrays: Arrays) -> None:
    """Write them to `new`, then give that the name `path`."""
    with new.open("wb") as out:
        np.savez(out, **dict(arrays))  # type: ignore[arg-type]
    new.replace(path)
