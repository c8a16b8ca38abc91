"""Tokenizer files of a checkpoint folder, read once and with bounds: JSON objects, templates, raw bytes.

Knows sizes and JSON types. Does not know what a token or a template means.
"""

from pathlib import Path
from typing import Any, TypeGuard

from ggufkit.errors import TokenizerError
from ggufkit.formats import strict_json
from ggufkit.formats.files import checked_size, disguise

MAX_FILE_BYTES = 64 << 20  # the largest known tokenizer.json has 33 MB
MAX_TEMPLATE_BYTES = 1 << 20
MAX_VOCAB = 1 << 20


class TokenizerFiles:
    """The files of one folder. JSON is parsed once; callers must not change what they get."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._objects: dict[str, dict[str, Any]] = {}

    def exists(self, name: str) -> bool:
        return (self.folder / name).exists()

    def read_bytes(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        """The whole file. Raises TokenizerError where it cannot be read or is longer than `limit` bytes."""
        path = self.folder / name
        nbytes = checked_size(path, TokenizerError)
        if nbytes > limit:
            raise TokenizerError(f"{path}: {nbytes} bytes, at most {limit} are read. This is not a tokenizer's file.")
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise TokenizerError(f"{path}: cannot be read: {error.strerror}. Check its permissions.") from error
        if what := disguise(raw[:512]):
            raise TokenizerError(f"{path} {what}")
        return raw

    def read_text(self, name: str, limit: int = MAX_FILE_BYTES) -> str:
        """The whole file as UTF-8."""
        try:
            return self.read_bytes(name, limit).decode("utf-8")
        except UnicodeDecodeError as error:
            path = self.folder / name
            raise TokenizerError(f"{path}: byte {error.start} is not UTF-8. Fetch the file again.") from error

    def read_object(self, name: str) -> dict[str, Any]:
        """A JSON file that holds one object; an absent file is an empty one."""
        if name not in self._objects:
            self._objects[name] = self._parse(name) if self.exists(name) else {}
        return self._objects[name]

    def _parse(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            value = strict_json.loads(self.read_bytes(name))
        except ValueError as error:
            raise TokenizerError(f"{path}: is not valid JSON: {error}. Fetch the file again.") from error
        if not isinstance(value, dict):
            raise TokenizerError(f"{path}: holds a JSON {type(value).__name__}, wanted an object.")
        return value


def is_int(value: object) -> TypeGuard[int]:
    """An integer that is not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def expect(value: Any, kind: type, where: str) -> Any:
    """`value`, if it is a `kind`. Raises TokenizerError that says where."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TokenizerError(f"{where}: {type(value).__name__}, wanted {kind.__name__}. The file is malformed.")
    return value
