"""Files that strangers made: is it a file, how large, what is it really, and how to name it in a message.

Knows paths and first bytes. Does not know any format's inside.
"""

import re
import stat
from pathlib import Path

from ggufkit.errors import InputError
from ggufkit.formats.printable import printable

_SHOWN_CHARS = 100

# org/name, as people copy it: with the site before it (a Path makes one slash of two), with a tag behind it
_HUB_NAME = re.compile(
    r"(?P<host>hf://|hf:/|(?:https?:/+)?(?:huggingface\.co|hf\.co)/)?"
    r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<tag>[\w.-]+))?(?:/tree/\w+)?/?"
)
_OF_FILES = (".gguf", ".json", ".jsonl", ".txt", ".toml", ".baseline", ".safetensors", ".bin", ".md")

# What downloads leave behind under a model's name: first bytes (lower case), what it is, what to do.
_DISGUISES = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself", "Run `git lfs pull` in its folder."),
    (
        b"<!doctype",
        "an HTML page, probably an error of the download",
        "Fetch the file again, logged in if it is gated.",
    ),
    (b"<html", "an HTML page, probably an error of the download", "Fetch the file again, logged in if it is gated."),
    (b"<?xml", "an XML page, probably an error of the download", "Fetch the file again, logged in if it is gated."),
    (b'{"error', "an error message of a server", "Fetch the file again, logged in if it is gated."),
    (b"\x1f\x8b", "compressed with gzip", "Decompress it first."),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Decompress it first."),
    (b"pk\x03\x04", "a zip archive, perhaps a PyTorch pickle", "Use the model's .safetensors or .gguf files."),
    (b"gguf", "a GGUF file", "Pass it to a command that takes GGUF."),
)

_PATH = re.compile(r"[/~.\\]|file:|[A-Za-z]:[\\/]|[^:]*\\|\S+@|(?!\w+://)[^/]*/([^/]*/|$)|[^/]*/checkpoint-\d+$")


def checked_size(path: Path, error: type[InputError]) -> int:
    """Bytes of a regular file; raises `error` for what is absent, a folder, a pipe or a device."""
    try:
        status = path.stat()
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or str(cause)
        raise error(f"{shown(str(path))}: {reason}. {hub_advice(path) or 'Check the path.'}") from cause
    if stat.S_ISDIR(status.st_mode):
        raise error(f"{path} is a folder, a file is wanted. Name one of the files in it.")
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{path} is not a regular file (a pipe or a device?). Copy it to a file first.")
    return status.st_size


def is_present(path: Path) -> bool:
    """Whether something has that name, a link to nothing included; what cannot be seen is for its reader to report."""
    try:
        return path.is_symlink() or path.exists()
    except OSError:
        return True


def is_local(name: str) -> bool:
    """A path on somebody's disk where the name of a model on the hub is wanted: ./out, /data/x, ../m, C:\\x, a/b/c."""
    return _PATH.match(name) is not None


def hub_advice(path: Path) -> str:
    """How to get what looks like a name on the Hugging Face hub and is nothing here; empty for other paths."""
    match = _HUB_NAME.fullmatch(str(path))
    if match is None or (not match["host"] and (path.parent.exists() or match["name"].endswith(_OF_FILES))):
        return ""
    name, tag = match["name"], match["tag"]
    one = f" --include '*{tag or 'Q4_K_M'}*'" if tag or name.lower().endswith("gguf") else ""
    folder = name.split("/")[1]
    return f"ggufkit downloads nothing. Get it from the hub first: hf download {name}{one} --local-dir {folder}"


def read_small(path: Path, max_nbytes: int, error: type[InputError]) -> bytes:
    """Whole content of a file that is not meant to be large. Raises `error`."""
    nbytes = checked_size(path, error)
    if nbytes > max_nbytes:
        raise error(f"{path}: {nbytes} bytes, at most {max_nbytes} are read of this file.")
    try:
        with path.open("rb") as file:
            return file.read(max_nbytes)
    except OSError as cause:
        raise error(f"{path}: cannot be read: {cause.strerror}. Check its permissions.") from cause


def disguise(head: bytes) -> str:
    """What a file that begins with `head` really is, and what to do about it; empty where nothing is recognised."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:32].lower()
    for magic, what, advice in _DISGUISES:
        if start.startswith(magic):
            return f"is {what}. {advice}"
    return ""


def shown(text: str) -> str:
    """A name from a file as it may stand in a message: control characters escaped, long ones cut."""
    safe = printable(text)
    return safe if len(safe) <= _SHOWN_CHARS else f"{safe[:_SHOWN_CHARS]}… ({len(text)} characters)"
