"""Threads do not wait in long loops: asked of the OpenMP runtime itself, which says what it read as it was loaded."""

import os
import subprocess
import sys

import pytest

from quant import waiting

ENTRIES = {  # every way in which a library that links OpenMP is loaded
    "arithmetic": "import quant; quant.quant_type('Q4_K')",
    "engine": "from ggufkit.runtime import library; library.load()",
}


def _shown(code: str, **chosen: str) -> str:
    env = {key: value for key, value in os.environ.items() if key not in waiting.VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env | {"OMP_DISPLAY_ENV": "verbose"} | chosen, capture_output=True, check=True
    )
    return done.stderr.decode()


@pytest.mark.skipif(sys.platform == "darwin", reason="ggml has its own threads there")
@pytest.mark.parametrize("entry", ENTRIES)
def test_the_runtime_read_it_as_it_was_loaded(entry):
    assert f"GOMP_SPINCOUNT = '{waiting.SPINS}'" in _shown(ENTRIES[entry])


@pytest.mark.skipif(sys.platform == "darwin", reason="ggml has its own threads there")
@pytest.mark.parametrize("entry", ENTRIES)
def test_what_the_user_chose_stays(entry):
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in _shown(ENTRIES[entry], OMP_WAIT_POLICY="active")
    shown = _shown(ENTRIES[entry], GOMP_SPINCOUNT="77")
    assert "GOMP_SPINCOUNT = '77'" in shown


def test_it_says_what_is_set_and_by_whom(monkeypatch):
    for name in waiting.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KMP_BLOCKTIME", "1")
    assert waiting.make_cheap.__wrapped__() == "KMP_BLOCKTIME=1 (from the environment)"
    monkeypatch.delenv("KMP_BLOCKTIME")
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that it is restored
    monkeypatch.delenv("GOMP_SPINCOUNT")
    assert waiting.make_cheap.__wrapped__() == f"GOMP_SPINCOUNT={waiting.SPINS} (set by ggufkit)"
    assert os.environ["GOMP_SPINCOUNT"] == waiting.SPINS
