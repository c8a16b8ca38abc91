"""Tables of figures come from results: one that was edited by hand, or is older than its results, fails."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "benchmarks" / "pages.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, cwd=root)


def test_tables_say_what_the_results_say() -> None:
    done = check(ROOT)
    assert done.returncode == 0, done.stderr


def test_a_figure_typed_by_hand_is_found(tmp_path: Path) -> None:
    for name in ("benchmarks", "docs", "ggufkit", "quant", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    page = (ROOT / "docs" / "real-models.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| SmolLM2-135M | Q3_K_M"))
    (tmp_path / "docs").unlink()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "real-models.md").write_text(page.replace(row, row.replace("0.", "1.")))
    (tmp_path / "benchmarks").unlink()
    (tmp_path / "benchmarks").mkdir()
    for file in (ROOT / "benchmarks").iterdir():
        if file.suffix == ".py":
            (tmp_path / "benchmarks" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "benchmarks" / "history").symlink_to(ROOT / "benchmarks" / "history")
    done = check(tmp_path)
    assert done.returncode == 1
    assert "docs/real-models.md" in done.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/real-models.md"])
def test_pages_have_tables_of_results(page: str) -> None:
    assert "<!-- results: fidelity -->" in (ROOT / page).read_text()


def test_processors_of_one_name_that_differ_in_their_instructions_have_files_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import history

    assert history._vectors({"sse2", "avx2", "avx512f"}) == "AVX-512" != history._vectors({"sse2", "avx2"})
    kind = history.machine()
    files = {history.path(kind | {"vectors": name}) for name in ("AVX-512", "AVX2", "")}
    assert len(files) == 3
    assert all(file.parent == history.FOLDER and file.suffix == ".json" for file in files)


def test_a_row_says_which_machine_measured_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import history

    row = history.Row("fidelity", "m", "Q2_K, ggufkit fast", "nats", "less", [1.0], [2.0], "a command")
    other = replace(row, figure="Q3_K_M, ggufkit fast")
    kinds = [history.machine() | {"vectors": name} for name in ("AVX-512", "AVX2")]
    for kind, new in zip(kinds, (row, other), strict=True):
        history.keep(tmp_path / "closeness.json", kind, [new])
    assert [row.machine for row in history.read(tmp_path / "closeness.json")] == [history.name(kind) for kind in kinds]
