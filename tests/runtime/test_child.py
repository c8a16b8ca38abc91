"""A working folder that holds a stranger's modules: nothing of it is run, by no process of ours."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ggufkit.runtime import child, probe
from ggufkit.runtime.probe import Kernels
from ggufkit.runtime.templates import TemplateWorker

ROOT = Path(__file__).parents[2]
SHADOWED = ("json", "resource", "types", "jinja2", "numpy", "gguf", "llama_cpp", "numba", "quant", "typing", "click",
            "readline", "dataclasses", "sitecustomize", "usercustomize", "encodings", "yaml", "signal")  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder; `ran` appears in it when one of its modules is run."""
    for name in SHADOWED:
        if name in ("jinja2", "numpy"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})")
        else:
            (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})")
    (tmp_path / ".numba_config.yaml").write_text("disable_jit: 1\ncpu_name: generic\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _ran(folder: Path) -> str:
    return (folder / "ran").read_text() if (folder / "ran").exists() else ""


@pytest.mark.parametrize("entry", ["", "absolute", "none"])
def test_children_run_nothing_of_the_working_folder(folder, monkeypatch, entry):
    more = {"": [""], "absolute": [str(folder)], "none": []}[entry]
    monkeypatch.setattr(sys, "path", [*more, *sys.path])  # as in a notebook, under -m, and as a command
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with TemplateWorker() as worker:
        assert worker.render("{{ x }}", {"x": "fine"}) == "fine"
    assert probe.run_child(False) == 0
    assert _ran(folder) == ""


def test_the_folder_of_the_packages_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(ROOT)])
    monkeypatch.chdir(ROOT)
    assert str(ROOT) in child.import_path()


@pytest.mark.parametrize("how", ["-m", "PYTHONPATH", "command"])
def test_commands_run_nothing_of_the_working_folder(folder, how, stories):
    for early in ("types", "encodings", "sitecustomize", "usercustomize", "typing", "signal"):
        (folder / f"{early}.py").unlink()  # Python itself may load these before a program has a say
    env = os.environ | ({"PYTHONPATH": f":{ROOT}"} if how == "PYTHONPATH" else {})
    start = [sys.executable, "-m", "ggufkit"] if how == "-m" else [Path(sys.executable).with_name("ggufkit")]
    if how == "PYTHONPATH":
        start = [sys.executable, "-c", "import ggufkit.cli; ggufkit.cli.main()"]
        (folder / "json.py").unlink()
    done = subprocess.run([*start, "run", stories, "-p", "Once", "-n", "2", "--chat"], env=env, capture_output=True)
    assert (done.returncode, _ran(folder)) == (0, ""), done.stderr


def test_numba_takes_no_settings_of_the_working_folder(folder):
    code = (
        "from quant.kernels.compiler import config; config.reload_config(); print(config.DISABLE_JIT, config.CPU_NAME)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.stdout.split(), _ran(folder)) == (["0", "None"], ""), done.stderr


def test_a_child_that_fails_is_no_verdict_about_the_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "suspected", lambda: True)
    cache = tmp_path / "probe.json"
    for odd in (1, 2, 124, 127, -9, -15, -24):
        found = probe.verdict(runner=lambda extra, code=odd: code, cache=cache)
        assert (found.kernels, found.probed) == (Kernels.PLAIN, False)
        assert "was not found out" in found.notice
    found = probe.verdict(runner=lambda extra: -11 if extra else 1, cache=cache)
    assert (found.kernels, found.probed) == (Kernels.PLAIN, False)
    assert not cache.exists()


def test_every_python_of_ours_is_started_by_child():
    for path in [*(ROOT / "ggufkit").rglob("*.py"), *(ROOT / "quant").rglob("*.py")]:
        names = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
        uses = any(node.attr == "executable" for node in names)
        assert not uses or path.name == "child.py", f"{path}: start it with runtime.child.python"


def test_a_worker_that_cannot_start_is_not_the_template_s_fault(monkeypatch):
    from ggufkit.errors import EngineError

    monkeypatch.setattr(child, "import_path", list)
    monkeypatch.chdir("/")
    with TemplateWorker() as worker, pytest.raises(EngineError, match="No module named 'ggufkit'"):
        worker.render("{{ x }}", {"x": json.dumps(1)})
