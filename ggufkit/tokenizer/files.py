"""Tokenizer files of a checkpoint folder, read once and with bounds: JSON objects, templates, raw bytes.

Knows sizes and JSON types, and keeps why a file could not be read: whether it was needed is for others to say.
Does not know what a token or a template means.
"""

from pathlib import Path
from typing import Any, TypeGuard

from ggufkit.errors import TokenizerError
from ggufkit.formats import strict_json
from ggufkit.formats.files import disguise, is_present, read_small
from ggufkit.formats.text import decoded

MAX_FILE_BYTES = 64 << 20  # the largest known tokenizer.json has 33 MB
MAX_TEMPLATE_BYTES = 1 << 20
MAX_VOCAB = 1 << 20


class MalformedError(TokenizerError):
    """A value of another kind than the file's format has in its place."""


class TokenizerFiles:
    """The files of one folder. JSON is parsed once; callers must not change what they get.

    notes        gets a line for each file or entry that is left out
    faults       files that could not be read, by name
    without_row  added tokens whose numbers have no row of embeddings
    """

    def __init__(self, folder: Path, notes: list[str] | None = None, config_folder: Path | None = None) -> None:
        self.folder = folder
        self._config = (config_folder or folder) / "config.json"
        self.notes: list[str] = [] if notes is None else notes
        self.faults: dict[str, TokenizerError] = {}
        self.without_row: dict[str, int] = {}
        self._objects: dict[str, dict[str, Any]] = {}

    def exists(self, name: str) -> bool:
        """Whether something has that name, be it a link to nothing: then reading it says so."""
        return is_present(self._path(name))

    def _path(self, name: str) -> Path:
        return self._config if name == self._config.name else self.folder / name

    def read_bytes(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        """The whole file. Raises TokenizerError where it cannot be read or is longer than `limit` bytes."""
        path = self._path(name)
        raw = read_small(path, limit, TokenizerError)
        if what := disguise(raw[:512]):
            raise TokenizerError(f"{path} {what}")
        return raw

    def read_text(self, name: str, limit: int = MAX_FILE_BYTES) -> str:
        """The whole file as UTF-8, without a byte-order mark, lines ending in a line feed."""
        try:
            text = decoded(self.read_bytes(name, limit))
        except ValueError as error:
            raise TokenizerError(f"{self.folder / name}: {error}. Fetch the file again.") from error
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def read_object(self, name: str) -> dict[str, Any]:
        """A JSON file that holds one object; an absent one is empty, as is one that cannot be read: see `faults`."""
        if name not in self._objects:
            self._objects[name] = {}
            try:
                if self.exists(name):
                    self._objects[name] = self._parse(name)
            except TokenizerError as error:
                self.leave_out(name, error)
        return self._objects[name]

    def leave_out(self, name: str, error: TokenizerError) -> None:
        """Go on as if the file were absent, with a note."""
        self._objects[name] = {}
        self.faults[name] = error
        self.note(str(error))

    def note(self, why: str) -> None:
        self.notes.append(f"{why.rstrip('.')}; it is left out")

    def _parse(self, name: str) -> dict[str, Any]:
        path = self._path(name)
        try:
            value = strict_json.loads(self.read_bytes(name), whole_floats=True)
        except ValueError as error:
            raise TokenizerError(f"{path}: is not valid JSON: {error}. Fetch the file again.") from error
        if not isinstance(value, dict):
            raise TokenizerError(f"{path}: holds a JSON {type(value).__name__}, wanted an object.")
        return value


def is_int(value: object) -> TypeGuard[int]:
    """An integer that is not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def expect(value: Any, kind: type, where: str) -> Any:
    """`value`, if it is a `kind`. Raises MalformedError that says where."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise MalformedError(f"{where}: {type(value).__name__}, wanted {kind.__name__}. The file is malformed.")
    return value
