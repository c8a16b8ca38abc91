"""How much memory a command will take that runs models along a text, from their headers alone."""

from collections.abc import Sequence
from pathlib import Path

from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_source import read_hparams
from ggufkit.runtime import memory, scoring
from ggufkit.runtime.memory import Decoding, Footprint

# Resident bytes of the interpreter with numpy, numba, the compiled kernels and llama.cpp, measured with
# benchmarks/memory.py and rounded up.
BASE_NBYTES = 320 << 20
BARE_NBYTES = 128 << 20  # without numba


def scored(files: Sequence[Path], n_ctx: int) -> Footprint:
    """Of models that score a text chunk by chunk, in step. Raises GgufError."""
    return _of(files, scoring.decoding(n_ctx))


def read_alone(file: Path, n_ctx: int) -> Footprint:
    """Of a model whose perplexity is all that is wanted: no compiled kernel is loaded for it. Raises GgufError."""
    return _of([file], scoring.decoding(n_ctx), BARE_NBYTES)


def calibrated(file: Path, n_ctx: int) -> Footprint:
    """Of a model whose every matrix is looked at while it reads a text. Raises GgufError."""
    return _of([file], Decoding(n_ctx, 1, n_ctx, n_ctx))


def _of(files: Sequence[Path], decoding: Decoding, base: int = BASE_NBYTES) -> Footprint:
    parts = [Footprint(0, 0, 0, 0, base)]
    for path in files:
        header = GgufFile.open(path)
        header.close()
        hparams = read_hparams(header)
        weights = sum(tensor.nbytes for tensor in header.tensors)
        parts.append(memory.footprint(weights, hparams, decoding))
    return Footprint(*(sum(column) for column in zip(*parts, strict=True)))
