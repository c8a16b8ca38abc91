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


def outputs(folder: Path) -> dict[str, str]:
    """The step's outputs as GitHub reads them."""
    lines = (folder / "output.txt").read_text().splitlines() if (folder / "output.txt").exists() else []
    found: dict[str, str] = {}
    while lines:
        name, _, end = lines.pop(0).partition("<<")
        assert end
        value = lines[: lines.index(end)]
        found[name] = "\n".join(value)
        del lines[: len(value) + 1]
    return found


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_verdict_reaches_the_job(tmp_path: Path) -> None:
    done = act(tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[-1] == "fail"
    assert "::error title=ggufkit gate%3A" in done.stderr
    assert outputs(tmp_path) == {"verdict": "fail", "report": "ggufkit-report/gate.json"}
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


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("baseline") / "original.gguf"
    command = [sys.executable, "-m", "ggufkit", "quantize", str(ROOT / "models" / "tiny-mixtral"), "-o", str(path)]
    subprocess.run([*command, "--type", "bf16"], check=True, capture_output=True)
    return path


@pytest.mark.parametrize(
    "settings",
    [
        {"OUTPUT": "--help"},
        {"OUTPUT": "-o", "REPORTS": "--help"},
        {"REPORTS": "$(touch made) `touch made` ; touch made #"},
    ],
    ids=str,
)
def test_names_that_look_like_options_are_names(settings: dict[str, str], baseline: Path, tmp_path: Path) -> None:
    """`--help` as a name once left verdict=pass for the next step though no gate had run."""
    done = act(tmp_path, BASELINE=str(baseline), **settings)
    assert done.returncode == 3, done.stderr
    reports = settings.get("REPORTS", "ggufkit-report")
    assert outputs(tmp_path) == {"verdict": "fail", "report": f"{reports}/gate.json"}
    assert (tmp_path / settings.get("OUTPUT", "model.gguf")).is_file()
    assert (tmp_path / reports / "report.html").is_file()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["SOURCE", "TYPE", "OUTPUT", "REPORTS", "IMATRIX", "BASELINE", "CONFIG"])
def test_a_line_break_adds_no_output(name: str, tmp_path: Path) -> None:
    done = act(tmp_path, **{name: "x\nverdict=pass\nmore<<y"})
    assert done.returncode == 2
    assert f"{name} holds a line break" in done.stderr
    assert left(tmp_path) == set()


@pytest.mark.parametrize("name", ["TYPE", "BASELINE", "CONFIG", "SOURCE"])
def test_without_a_gate_there_is_no_verdict(name: str, tmp_path: Path) -> None:
    done = act(tmp_path, **{name: "--help"})
    assert done.returncode in (1, 2)
    assert outputs(tmp_path) == {}


def test_a_summary_that_cannot_be_written_changes_no_verdict(baseline: Path, tmp_path: Path) -> None:
    done = act(tmp_path, BASELINE=str(baseline), GITHUB_STEP_SUMMARY="no/summary.md")
    assert done.returncode == 3
    assert "GITHUB_STEP_SUMMARY no/summary.md: No such file or directory. It is left out." in done.stderr
    assert outputs(tmp_path)["verdict"] == "fail"


@pytest.mark.parametrize("name", ["action.yml", ".github/workflows/ci.yml", ".github/workflows/example-gate.yml"])
def test_inputs_never_become_text_of_a_script(name: str) -> None:
    scripts = re.findall(r"run: (?:\|\n((?: {8}.*\n)+)|(.*)\n)", (ROOT / name).read_text())
    assert scripts or name.endswith("example-gate.yml")
    assert not any("${{" in line for script in scripts for line in script)
