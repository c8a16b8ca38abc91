"""Where a file comes from: what its metadata says of it, and the identity that a resumed run must share.

Knows which settings and sources decide the bytes. Writes no local paths into a file. Does not encode or check places.
"""

import functools
import hashlib
from pathlib import Path

import gguf

import quant
from ggufkit import __version__
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.formats.imatrix import Imatrix
from ggufkit.formats.model import KV, Model
from ggufkit.recipes.recipe import Recipe
from quant._ggml import library_path


def provenance(settings: QuantizeSettings, model: Model, imatrix: Imatrix | None) -> tuple[KV, ...]:
    """What the file owes to whom, without local paths, so that it can be made again."""
    string, u32 = gguf.GGUFValueType.STRING, gguf.GGUFValueType.UINT32
    rows = [KV("ggufkit.version", string, __version__), KV("ggufkit.encoder", string, str(settings.encoder))]
    rows += [KV(f"ggufkit.source.{key}", string, value) for key, value in sorted(model.source.items())]
    if isinstance(settings.recipe, Recipe):
        rows.append(KV("ggufkit.recipe", string, settings.recipe.to_toml()))
    if settings.fitting is not None:
        rows += settings.fitting.metadata
    if imatrix is not None and settings.imatrix is not None:
        rows.append(KV("quantize.imatrix.file", string, settings.imatrix.name))
        if imatrix.datasets:
            rows.append(KV("quantize.imatrix.dataset", string, Path(imatrix.datasets[0]).name))
        rows.append(KV("quantize.imatrix.entries_count", u32, len(imatrix.entries)))
        rows.append(KV("quantize.imatrix.chunks_count", u32, imatrix.chunk_count))
        rows.append(KV("ggufkit.imatrix.sha256", string, _sha256(settings.imatrix)))
    return tuple(rows)


def identity(settings: QuantizeSettings, model: Model, header: bytes, imatrix: Imatrix | None) -> str:
    """Digest of all that decides the bytes: the output's header, the source, importance, encoder and its code."""
    digest = hashlib.sha256(header)
    for key, value in sorted(model.source.items()):
        digest.update(f"{key}={value}\n".encode())
    digest.update(f"{__version__} {settings.encoder} {settings.allow_nonfinite} {_code()}\n".encode())
    if imatrix is not None and settings.imatrix is not None:
        digest.update(_sha256(settings.imatrix).encode())
    if settings.fitting is not None:
        digest.update(settings.fitting.identity.encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _code() -> str:
    """Digest of our encoders' sources and of which ggml library there is: another build may choose other bytes."""
    digest = hashlib.sha256(str(library_path().stat().st_size).encode())
    for path in sorted(Path(quant.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
