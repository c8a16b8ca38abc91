"""The composite action's script as a runner calls it: outputs, summary, reports, and what it leaves behind."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def act(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the script in `folder` with the environment that GitHub sets."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    inputs = {
        "SOURCE": str(ROOT / "models" / "tiny-mixtral"),
        "TYPE": "Q2_K",
        "BASELINE": "",
        "CONFIG": "",
        "IMATRIX": "",
    }
    github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "summary.md", "GITHUB_OUTPUT": "output.txt"}
    environment = os.environ | {"PATH": path} | inputs | github | settings
    script = ["bash", str(ROOT / "scripts" / "action.sh")]
    return subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_verdict_reaches_the_job(tmp_path: Path) -> None:
    done = act(tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[-1] == "fail"
    assert "::error title=ggufkit gate%3A" in done.stderr
    assert (tmp_path / "output.txt").read_text() == "verdict=fail\nreport=ggufkit-report/gate.json\n"
    assert (tmp_path / "summary.md").read_text().startswith("## ❌ fail: model.gguf")
    assert json.loads((tmp_path / "ggufkit-report" / "gate.json").read_text())["verdict"] == "fail"
    reports = {f"ggufkit-report/{name}" for name in ("gate.json", "gate.md", "gate.xml", "report.html")}
    assert left(tmp_path) == {"model.gguf", "output.txt", "summary.md"} | reports


def test_an_error_leaves_no_report_and_no_original(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text("[limits]\nkld = 1\n")
    done = act(tmp_path, CONFIG="gate.toml")
    assert done.returncode == 1
    assert "unknown metric limits.kld" in done.stderr
    assert left(tmp_path) == {"model.gguf", "gate.toml"}


@pytest.mark.parametrize("name", ["action.yml", ".github/workflows/ci.yml", ".github/workflows/example-gate.yml"])
def test_inputs_never_become_text_of_a_script(name: str) -> None:
    scripts = re.findall(r"run: (?:\|\n((?: {8}.*\n)+)|(.*)\n)", (ROOT / name).read_text())
    assert scripts or name.endswith("example-gate.yml")
    assert not any("${{" in line for script in scripts for line in script)
