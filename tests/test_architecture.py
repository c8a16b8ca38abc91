"""The house: who may import whom, where ctypes and llama_cpp may appear, how fast `--help` is."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# a package may import itself and what stands in its row
LOW = {"quant", "ggufkit.errors", "ggufkit.progress", "ggufkit.sigint", "ggufkit.formats"}
MIDDLE = LOW | {"ggufkit.architectures", "ggufkit.recipes", "ggufkit.runtime"}
ROOMS = MIDDLE | {"ggufkit.cluster", "ggufkit.differences", "ggufkit.proof", "ggufkit.encoding", "ggufkit.fitting"}
MAY_IMPORT = {
    "quant": set(),
    "ggufkit.errors": set(),
    "ggufkit.progress": set(),
    "ggufkit.sigint": set(),
    "ggufkit.formats": {"quant", "ggufkit.errors"},
    "ggufkit.tokenizer": LOW,
    "ggufkit.architectures": LOW | {"ggufkit.tokenizer"},
    "ggufkit.recipes": LOW,
    "ggufkit.runtime": LOW,
    "ggufkit.differences": LOW | {"ggufkit.recipes"},
    "ggufkit.proof": LOW | {"ggufkit.differences", "ggufkit.runtime"},
    "ggufkit.cluster": {"quant", "ggufkit.errors", "ggufkit.sigint"},
    "ggufkit.encoding": MIDDLE | {"ggufkit.cluster"},
    "ggufkit.fitting": MIDDLE | {"ggufkit.cluster", "ggufkit.encoding"},
    "ggufkit.workflows": ROOMS,
    "ggufkit.reports": ROOMS | {"ggufkit.workflows"},
    "ggufkit.loaded": LOW | {"ggufkit.runtime"},
    "ggufkit.api": {"quant", "ggufkit"},
    "ggufkit.cli": {"quant", "ggufkit"},
}
CTYPES = ("quant/_ggml.py", "ggufkit/runtime/")
LLAMA_CPP = ("ggufkit/runtime/",)


def sources() -> list[Path]:
    return sorted([*(ROOT / "quant").rglob("*.py"), *(ROOT / "ggufkit").rglob("*.py")])


def imports(path: Path) -> set[str]:
    """Modules that are imported at run time, dotted; TYPE_CHECKING blocks count too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "ggufkit"}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return found


def package_of(module: str) -> str:
    """`ggufkit.formats.tensor` -> `ggufkit.formats`; `quant.types` -> `quant`."""
    parts = module.split(".")
    return "quant" if parts[0] == "quant" else ".".join(parts[:2])


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = package_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    allowed = MAY_IMPORT.get(package, {"quant", "ggufkit"})
    ours = {m for m in imports(path) if m.split(".")[0] in ("quant", "ggufkit")}
    # the version and the package itself are free
    wrong = {
        m
        for m in ours
        if package_of(m) not in allowed | {package, "ggufkit", "ggufkit.__version__"} and m.split(".")[0] not in allowed
    }
    assert not wrong, f"{package} may import {sorted(allowed)}"


@pytest.mark.parametrize(("module", "homes"), [("ctypes", CTYPES), ("llama_cpp", LLAMA_CPP)])
def test_foreign_code_stays_in_its_rooms(module: str, homes: tuple[str, ...]) -> None:
    users = {
        str(p.relative_to(ROOT))
        for p in sources()
        if any(m == module or m.startswith(module + ".") for m in imports(p))
    }
    assert users, f"nothing imports {module}: is this test still looking in the right place?"
    assert all(user.startswith(homes) for user in users)


@functools.cache
def handed_on(path: Path) -> set[str]:
    """Names that a module of ours has from another one of ours."""
    body = ast.parse(path.read_text()).body
    ours = (
        node
        for node in body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("ggufkit", "quant"))
    )
    return {alias.asname or alias.name for node in ours for alias in node.names}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_name_is_imported_from_where_it_is_defined(path: Path) -> None:
    """Packages alone hand on what their modules define."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            home = ROOT / (node.module.replace(".", "/") + ".py")
            if home.is_file() and package_of(node.module) in MAY_IMPORT:
                twice = {alias.name for alias in node.names} & handed_on(home)
                assert not twice, f"{path.relative_to(ROOT)}: {sorted(twice)} is not defined in {node.module}"


def test_help_loads_nothing_heavy() -> None:
    heavy = ("numpy", "numba", "llama_cpp", "gguf", "rich")
    code = f"import sys, ggufkit.cli; print(*[m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.split() == []
