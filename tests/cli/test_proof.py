"""`gate`, `report` and `card` as a CI job calls them: exit codes, files, what GitHub reads."""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from ggufkit.cli import main

Tiny = Callable[[str], Path]
LIMITS = "chunks = 64\n[limits]\nkld_mean = {}\n"


def run(*args: object) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert "mistake of ggufkit" not in result.output
    return result


def gate(tiny: Tiny, folder: Path, limit: float, *more: object) -> Result:
    (folder / "gate.toml").write_text(LIMITS.format(limit))
    common = ("--config", folder / "gate.toml", "--ctx", 128, "--no-weights", "-t", 1)
    return run("gate", tiny("Q6_K"), "--baseline", tiny("BF16"), *common, *more)


@pytest.mark.parametrize(("limit", "verdict", "code"), [(0.02, "pass", 0), (0.0004, "fail", 3), (0.004, "?", 4)])
def test_exit_codes(limit: float, verdict: str, code: int, tiny: Tiny, tmp_path: Path) -> None:
    more = ("--chunks", 4) if code == 4 else ()
    result = gate(tiny, tmp_path, limit, "--json", *more)
    assert result.exit_code == code
    assert json.loads(result.stdout)["verdict"] == (verdict if code != 4 else "inconclusive")


def test_a_job_on_github_finds_everything(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("another step\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    files = {name: tmp_path / f"gate.{name}" for name in ("xml", "md")}
    result = gate(tiny, tmp_path, 0.0004, "--json", "--junit", files["xml"], "--markdown", files["md"])
    assert result.exit_code == 3
    assert "::error title=ggufkit gate%3A mean KL divergence::" in result.stderr
    assert summary.read_text().startswith("another step\n## ❌ fail: tiny-Q6\\_K.gguf")
    assert files["md"].read_text() in summary.read_text()
    assert ElementTree.parse(files["xml"]).getroot().get("failures") == "1"

    (tmp_path / "gate.json").write_text(result.stdout)
    page, card = tmp_path / "report.html", tmp_path / "README.md"
    assert run("report", tmp_path / "gate.json", "-o", page).exit_code == 0
    assert page.read_text().startswith("<!doctype html>")
    assert run("card", tmp_path / "gate.json", "-o", card, "--base-model", "org/tiny").exit_code == 0
    assert 'base_model: "org/tiny"' in card.read_text()
    assert run("card", tmp_path / "gate.json", "--base-model", "org/tiny").stdout == card.read_text()


@pytest.mark.parametrize("command", [("report", "-o", "x.html"), ("card",)])
def test_other_json_is_refused(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"schema": "ggufkit/plan@1"}')
    result = run(command[0], tmp_path / "x.json", *command[1:])
    assert result.exit_code == 1
    assert "has schema 'ggufkit/plan@1', wanted ggufkit/gate@1" in result.output


def test_a_limit_that_is_no_number_names_the_key(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text('[limits]\nkld_mean = "low"\n')
    result = run("gate", tiny("Q6_K"), "--baseline", tiny("BF16"), "--config", tmp_path / "gate.toml")
    assert result.exit_code == 1
    assert "limits.kld_mean is 'low', wanted a number" in result.output


@pytest.mark.parametrize(
    ("name", "problem"),
    [("no/gate.xml", "no is not a folder"), (".", "is a folder. Name a file"), ("gate.toml", "is the input itself")],
)
def test_places_that_cannot_be_written_are_found_before_the_work(
    name: str, problem: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ggufkit.workflows import gate as workflow

    monkeypatch.setattr(workflow, "gate", lambda *_: pytest.fail("the gate ran first"))
    result = gate(tiny, tmp_path, 0.02, "--junit", tmp_path / name)
    assert result.exit_code == 1
    assert problem in result.output


def test_what_is_read_is_never_replaced(tiny: Tiny, tmp_path: Path) -> None:
    model, page = tmp_path / "tiny.gguf", tmp_path / "gate.json"
    model.write_bytes(tiny("Q6_K").read_bytes())
    page.write_text(Path(__file__).parents[1].joinpath("data/reports/gate.json").read_text())
    for args in (("baseline", model, "-o", model, "--force"), ("report", page, "-o", page), ("card", page, "-o", page)):
        before = Path(args[1]).read_bytes()
        result = run(*args)
        assert result.exit_code == 1
        assert "is the input itself" in result.output
        assert Path(args[1]).read_bytes() == before


def test_a_verdict_is_shown_though_its_reports_cannot_be_written(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ggufkit.errors import OutputError
    from ggufkit.formats import atomic

    def full(*_: object) -> None:
        raise OutputError("gate.xml: cannot be written: No space left on device.")

    monkeypatch.setattr(atomic, "write_atomic", full)
    result = gate(tiny, tmp_path, 0.02, "--json", "--junit", tmp_path / "gate.xml")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verdict"] == "pass"


@pytest.mark.parametrize("name", ["./m", "/data/m", "../m", "models/m/", "C:\\m", "https://example.org/m", ""])
def test_a_base_model_that_is_no_name_on_the_hub_is_a_wrong_option(name: str, tmp_path: Path) -> None:
    result = run("card", tmp_path / "absent.json", "--base-model", name)
    assert result.exit_code == 2 and "wanted the original's name on the hub: org/name" in result.stderr
