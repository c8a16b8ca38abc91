"""Where compiled kernels are kept: by the sources' content, and never in the folder that a user happens to be in."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import quant
from quant.kernels import cache, compiler

ROOT = Path(quant.__file__).parents[1]
FOLDER = "from quant.kernels.cache import cache_folder; print(cache_folder())"
ENCODE = "import numpy as np; from quant import *; quantize(np.ones((1, 256), np.float32), quant_type('Q8_0'))"

BOTH = f"{ENCODE}\nfrom quant.difference import row_sums; row_sums(np.ones((1, 4), 'f4'), np.ones((1, 4), 'f4'))"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package without compiled code, and a folder to work in beside it."""
    (tmp_path / "cwd").mkdir()
    shutil.copytree(Path(quant.__file__).parent, tmp_path / "quant", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def _run(root: Path, code: str, **env: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    environment = {**kept, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", **env}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=root / "cwd", env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def _close(package: Path) -> None:
    """Nobody can write beside the sources: a file is where the folder should be. Holds for root as well."""
    (package / "quant" / "kernels" / "__pycache__").write_text("")


def test_an_edit_of_any_source_leads_to_another_folder(package: Path) -> None:
    before = _run(package, FOLDER)
    assert _run(package, FOLDER) == before
    with (package / "quant" / "kernels" / "halves.py").open("a") as source:
        source.write("\n# edited\n")
    assert _run(package, FOLDER) != before


def test_code_is_kept_beside_the_sources(package: Path) -> None:
    _run(package, ENCODE)
    assert list((package / "quant" / "kernels" / "__pycache__").rglob("q8_0*.nbc"))


def test_threads_that_decorate_at_once_see_one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def slow_njit(**_: object) -> Callable[[object], object]:
        def decorate(function: object) -> object:
            for _ in range(3):
                time.sleep(0.005)
                seen.append(compiler.config.CACHE_DIR)
            return function

        return decorate

    monkeypatch.setattr(compiler, "njit", slow_njit)
    before = compiler.config.CACHE_DIR
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(compiler.kernel, range(8)))
    assert set(seen) == {str(cache.cache_folder())}
    assert before == compiler.config.CACHE_DIR


def test_numba_cache_dir_wins(package: Path) -> None:
    assert Path(_run(package, FOLDER, NUMBA_CACHE_DIR="here")).parent == package / "cwd" / "here"


def test_without_room_beside_the_sources_the_user_folder_is_used(package: Path) -> None:
    _close(package)
    found = _run(package, FOLDER, XDG_CACHE_HOME=str(package / "user"))
    assert Path(found).parent == package / "user"


def test_every_compiled_function_goes_through_one_door() -> None:
    """Numba's own decorators are used in one file; whatever else compiles keeps its code where all is kept."""
    sources = [path for root in ("quant", "ggufkit") for path in (ROOT / root).rglob("*.py")]
    users = {
        path.name
        for path in sources
        if re.search(r"\b(njit|vectorize|guvectorize|stencil)\b|import numba", path.read_text())
    }
    assert users == {"compiler.py", "settings.py"}
    assert all(
        "cache=" not in path.read_text() or path.name == "compiler.py" for path in (ROOT / "quant").rglob("*.py")
    )


@pytest.mark.parametrize("home", ["", "relative"])
def test_without_any_room_nothing_is_kept_and_nothing_littered(package: Path, home: str) -> None:
    _close(package)
    blocked = package / "file"
    blocked.write_text("")
    where = {"XDG_CACHE_HOME": home, "HOME": home or str(blocked)}
    said = _run(package, f"import warnings; warnings.showwarning = lambda message, *_: print(message)\n{BOTH}", **where)
    assert said.startswith("compiled code cannot be kept, so each start compiles again")
    assert list((package / "cwd").iterdir()) == []


def test_folders_of_earlier_sources_are_removed_once_nobody_can_be_using_them(tmp_path: Path) -> None:
    names = ["ggufkit-mine", "ggufkit-old", "ggufkit-new", "other-old"]
    for name in names:
        (tmp_path / name).mkdir()
        if name.endswith("old"):
            os.utime(tmp_path / name, (0, 0))
    cache.forget_others(tmp_path, "ggufkit-mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(set(names) - {"ggufkit-old"})
