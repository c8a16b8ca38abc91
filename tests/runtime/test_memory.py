"""Memory of running: exact where llama.cpp says what it allocates, never below it elsewhere."""

import re

import pytest

from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_source import read_hparams
from ggufkit.formats.model import Hparams
from ggufkit.runtime import library, memory
from ggufkit.runtime.engine import Engine

MIXTRAL = Hparams("llama", 32, 4096, 32, 8, 8, 2, 32768, 32000, 128, 128)
GIB = 1 << 30


def _logged_mib(log: library.LogRing, text: str) -> float:
    line = next(line for _, line in reversed(log.lines) if text in line)
    return float(re.search(r"([\d.]+) MiB", line)[1])


@pytest.mark.parametrize("n_ctx", [256, 1024])
def test_llama_cpp_allocates_what_is_counted(tiny_bf16, n_ctx):
    hparams = read_hparams(GgufFile.open(tiny_bf16))
    with Engine.open(tiny_bf16, n_ctx=n_ctx, threads=1) as engine:
        assert _logged_mib(engine.log, "KV buffer size") == pytest.approx(
            memory.kv_nbytes(hparams, n_ctx) / 2**20, abs=0.01
        )
        assert _logged_mib(engine.log, "compute buffer size") <= memory.compute_nbytes(hparams, n_ctx) / 2**20


def test_the_cache_of_mixtral_takes_128_kib_a_token():
    assert memory.kv_nbytes(MIXTRAL, 4096) == 4096 * (128 << 10)
    assert memory.kv_nbytes(MIXTRAL, 1) == memory.kv_nbytes(MIXTRAL, 256)
    assert memory.kv_nbytes(MIXTRAL, 512, n_seq=3) == 3 * memory.kv_nbytes(MIXTRAL, 512)


def test_the_largest_context_is_the_largest():
    weights = 26 * GIB
    n_ctx = memory.largest_ctx(32 * GIB, weights, MIXTRAL)
    assert 0 < n_ctx < 32768
    assert memory.fits(32 * GIB, weights, MIXTRAL, n_ctx)
    assert not memory.fits(32 * GIB, weights, MIXTRAL, n_ctx + memory.CTX_STEP)


def test_what_fits_whole_and_what_does_not_at_all():
    assert memory.largest_ctx(64 * GIB, 26 * GIB, MIXTRAL) == 32768
    assert memory.largest_ctx(26 * GIB, 26 * GIB, MIXTRAL) == 0
