"""Where a file comes from: what its metadata says of it, and the identity that a resumed run must share.

Knows which settings and sources decide the bytes. Writes no local paths into a file. Does not encode or check places.
"""

import functools
import hashlib
from pathlib import Path

import gguf

import quant
from ggufkit import __version__
from ggufkit.encoding.encoder import RowEncoder
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.formats.model import KV, Model
from ggufkit.recipes.recipe import Recipe
from quant._ggml import library_path


def provenance(settings: QuantizeSettings, model: Model, encoder: RowEncoder) -> tuple[KV, ...]:
    """What the file was made from and with, without local paths, so that it can be made again."""
    string = gguf.GGUFValueType.STRING
    rows = [KV("ggufkit.version", string, __version__), KV("ggufkit.encoder", string, str(encoder.name))]
    rows += [KV(f"ggufkit.source.{key}", string, value) for key, value in sorted(model.source.items())]
    if isinstance(settings.recipe, Recipe):
        rows.append(KV("ggufkit.recipe", string, settings.recipe.to_toml()))
    return (*rows, *encoder.metadata)


def identity(settings: QuantizeSettings, model: Model, header: bytes, encoder: RowEncoder) -> str:
    """Digest of all that decides the bytes: the output's header, the source, the encoder and its code."""
    digest = hashlib.sha256(header)
    for key, value in sorted(model.source.items()):
        digest.update(f"{key}={value}\n".encode())
    digest.update(f"{__version__} {settings.allow_nonfinite} {code_digest()} {encoder.identity}\n".encode())
    return digest.hexdigest()


@functools.cache
def code_digest() -> str:
    """Digest of our encoders' sources and of which ggml library there is: another build may choose other bytes."""
    digest = hashlib.sha256(str(library_path().stat().st_size).encode())
    for path in sorted(Path(quant.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
