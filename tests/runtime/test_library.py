"""Loading llama.cpp: log lines reach the error, a foreign struct layout is refused."""

import os
import shutil
import subprocess
import sys

import pytest

from ggufkit.errors import EngineError
from ggufkit.runtime import library
from quant._ggml import library_path
from quant.errors import LibraryError


def test_a_line_is_complete_at_its_newline_and_keeps_its_level():
    ring = library.LogRing()
    ring.add(4, "cannot ")
    ring.add(5, "open\nnext")
    ring.add(2, " line\n")
    assert list(ring.lines) == [(4, "cannot open"), (2, "next line")]


def test_errors_come_before_warnings_and_only_the_last_ones():
    ring = library.LogRing()
    for level, text in ((3, "warned"), (4, "one"), (4, "two"), (2, "info")):
        ring.add(level, text + "\n")
    assert ring.errors(1) == ["two"]
    assert ring.errors() == ["one", "two"]


def test_debugging_does_not_push_out_what_matters():
    ring = library.LogRing(size=3)
    ring.add(4, "cannot\n")
    for _ in range(9):
        ring.add(1, "input tensor ")
        ring.add(5, "is used\n")
    assert ring.errors() == ["cannot"]


def test_a_sink_sees_every_line():
    ring, seen = library.LogRing(), []
    ring.sink = lambda level, text: seen.append((level, text))
    ring.add(2, "a\nb\n")
    assert seen == [(2, "a"), (2, "b")]


def test_a_struct_with_other_defaults_is_refused(monkeypatch):
    lib = library.load()
    moved = lib.llama_context_default_params()
    moved.n_ubatch = 7
    monkeypatch.setattr(lib, "llama_context_default_params", lambda: moved)
    with pytest.raises(EngineError, match=r"llama_context_params of the installed llama\.cpp has another layout"):
        library._check_structs(lib)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="pip install 'llama-cpp-python"):
        library.library_folder()


def test_info_names_the_library_and_its_build():
    info = library.info()
    assert info.libllama is not None
    assert info.libllama.is_file()
    assert "CPU" in info.system_info


def test_another_build_of_the_library_is_used(tmp_path, monkeypatch, stories):
    """llama-cpp-python's own switch, as people with CUDA, ROCm or Metal builds use it; for arithmetic, too."""
    folder = tmp_path / "build"
    shutil.copytree(library.library_folder(), folder, symlinks=True)
    code = (
        "from ggufkit.runtime import library; from quant._ggml import library_path; import quant; "
        "print(library.info().folder, library_path().parent, quant.quant_type('Q4_K').name)"
    )
    env = os.environ | {"LLAMA_CPP_LIB_PATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(folder), str(folder), "Q4_K"]
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    with pytest.raises(LibraryError, match=r"libggml-base\.\w+ is missing; LLAMA_CPP_LIB_PATH names that folder"):
        library_path()
