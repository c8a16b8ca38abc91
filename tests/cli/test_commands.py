"""Every command on the shipped model: exit codes, strict JSON, and what odd terminals and names must not break."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from ggufkit.cli import console, main
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.formats.text import EVALUATION_TEXT, shipped_text
from ggufkit.progress import Progress
from ggufkit.reports.result import plain
from ggufkit.workflows import check
from ggufkit.workflows.inspect import inspect
from ggufkit.workflows.perplexity import PerplexitySettings, perplexity

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny-mixtral"


@pytest.fixture(scope="module")
def q8_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands") / "tiny.gguf"
    assert invoke("quantize", MODEL, "-o", path, "--type", "Q8_0").exit_code == 0
    return path


def invoke(*args: object) -> Any:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert "mistake of ggufkit" not in result.output, result.output
    return result


def strict(text: str) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return dict(json.loads(text, parse_constant=refuse))


def child(*args: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ggufkit", *(os.fspath(a) if isinstance(a, Path) else str(a) for a in args)]
    return subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **options)


@pytest.mark.parametrize(
    ("args", "schema"),
    [
        (["plan", MODEL], "plan@1"),
        (["inspect", "FILE"], "inspect@1"),
        (["perplexity", "FILE", "--chunks", "1"], "perplexity@1"),
        (["run", "FILE", "-p", "Once", "-n", "3", "--seed", "1"], "run@1"),
        (["doctor"], "doctor@1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_json_is_one_strict_document(args: list[object], schema: str, q8_0: Path) -> None:
    result = invoke(*[q8_0 if a == "FILE" else a for a in args], "--json")
    assert result.exit_code == 0, result.output
    assert strict(result.stdout)["schema"] == f"ggufkit/{schema}"


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json(plain({"a": [float("nan"), 1.5], "b": (float("-inf"),), "c": "\udce9"}))
    assert strict(capsys.readouterr().out) == {"a": [None, 1.5], "b": [None], "c": "?"}


def test_one_chunk_has_no_error(q8_0: Path) -> None:
    assert "nan" not in invoke("perplexity", q8_0, "--chunks", "1").stdout


def test_a_dry_run_says_what_fitting_takes_on_stdout(tmp_path: Path) -> None:
    words = ("quantize", MODEL, "-o", tmp_path / "x.gguf", "--effort", "best", "--target-bpw", "4", "--tokens", 4096)
    cost = strict(invoke(*words, "--dry-run", "--json").stdout)["fitting"]
    assert cost["effort"] == "best" and cost["n_readings"] == 1 and cost["disk_nbytes"] > 0
    assert sum(cost["seconds"].values()) > 0
    assert "to fit it: effort best: about " in invoke(*words, "--dry-run").stdout
    assert strict(invoke("plan", MODEL, "--effort", "fast", "--tokens", 4096, "--json").stdout)["fitting"]["by_layer"]
    assert os.listdir(tmp_path) == []
    refused = invoke("plan", MODEL, "--tokens", 4096)
    assert refused.exit_code == 2 and "Give an --effort with it" in refused.output


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = invoke("quantize", MODEL, "-o", tmp_path / "x.gguf", "--dry-run")
    assert result.exit_code == 0
    assert "blk.{0-3}.attn_q.weight" in result.stdout
    assert os.listdir(tmp_path) == []


def test_check_names_both_types_and_leaves_only_the_output(q8_0: Path, tmp_path: Path) -> None:
    out, text = tmp_path / "out" / "x.gguf", tmp_path / "text.txt"
    out.parent.mkdir()
    text.write_text(shipped_text("evaluation-prose.txt")[:6000])
    result = invoke("quantize", q8_0, "-o", out, "--type", "Q4_K_M", "--check", "--text", text, "--json")
    assert result.exit_code == 0, result.output
    found = strict(result.stdout)["check"]
    assert found["type_before"] == "Q8_0"
    assert found["n_chunk"] >= 2
    assert 0.98 < found["ppl_after"] / found["ppl_before"] < 1.1
    assert os.listdir(out.parent) == ["x.gguf"]


def test_check_s_conditions_are_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "latin.txt"
    text.write_bytes(b"caf\xe9" * 1000)
    out = tmp_path / "out"
    out.mkdir()
    result = invoke("quantize", MODEL, "-o", out / "x.gguf", "--check", "--text", text)
    assert (result.exit_code, os.listdir(out)) == (1, [])
    assert "not UTF-8" in result.output
    result = invoke("quantize", MODEL, "-o", out / "x.gguf", "--text", text)
    assert (result.exit_code, os.listdir(out)) == (2, [])
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10 << 20))
    result = invoke("quantize", MODEL, "-o", out / "x.gguf", "--check")
    assert (result.exit_code, os.listdir(out)) == (1, [])
    assert "unquantized copy" in result.output


def test_a_failed_check_says_that_the_file_is_complete(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("short")
    result = invoke("quantize", MODEL, "-o", tmp_path / "x.gguf", "--check", "--text", text)
    assert result.exit_code == 1
    assert "x.gguf is complete, only the check is missing" in result.output
    assert sorted(os.listdir(tmp_path)) == ["short.txt", "x.gguf"]


def test_a_prompt_that_does_not_fit_is_an_error_and_no_output(q8_0: Path) -> None:
    result = invoke("run", q8_0, "-p", "word " * 3000)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Shorten the prompt" in result.stderr


def test_context_beyond_the_training_is_said(q8_0: Path) -> None:
    result = invoke("run", q8_0, "-p", "Once", "-n", "1", "--ctx", "4096")
    assert "the model was trained on 2048" in result.stderr


def test_a_template_that_is_not_there_is_an_error(q8_0: Path) -> None:
    result = invoke("inspect", q8_0, "--template")
    assert (result.exit_code, result.stdout) == (1, "")


def test_names_that_are_no_unicode(q8_0: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(q8_0.parent) + b"/caf\xe9.gguf"))
    try:
        odd.write_bytes(q8_0.read_bytes())
    except OSError as error:
        if error.errno == errno.EILSEQ:
            pytest.skip("this file system wants Unicode")
        raise
    done = child("run", odd, "-p", "Once", "-n", "1", "--json", stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    done = child("perplexity", odd, "--chunks", "1", "--json", stdout=subprocess.PIPE)
    assert strict(done.stdout.decode())["file"] == "caf?.gguf"


@pytest.mark.parametrize("verb", ["inspect", "plan", "perplexity"])
def test_a_file_without_permission_is_no_usage_error(verb: str, q8_0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refusing(path: Any, *more: Any, **options: Any) -> int:
        if str(path) == str(q8_0):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, *more, **options)

    monkeypatch.setattr(os, "open", refusing)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    result = invoke(verb, q8_0)
    assert result.exit_code == 1, result.output
    said = "cannot be read at byte 0: Permission denied. Check its permissions and its disk."
    assert result.output.strip() == f"Error: {q8_0}: {said}"


@pytest.mark.parametrize(
    "more", [["--check"], ["--check", "--dry-run"], ["--effort", "fast", "--tokens", "1024", "--check"]]
)
def test_a_folder_is_opened_once(more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    original = Checkpoint.open
    monkeypatch.setattr(Checkpoint, "open", lambda path: opened.append(path) or original(path))
    text = tmp_path / "text.txt"
    text.write_text(shipped_text(EVALUATION_TEXT)[:8000])
    out = tmp_path / "x.gguf"
    result = invoke("quantize", MODEL, "-o", out, "--type", "Q4_0", "--threads", "1", "--text", text, *more)
    assert result.exit_code == 0, result.output
    assert opened == [MODEL]
    assert out.exists() != ("--dry-run" in more)


def test_what_is_compared_with_is_converted_and_nothing_else(tmp_path: Path) -> None:
    settings = QuantizeSettings(source=MODEL, output=tmp_path / "x.gguf", imatrix=tmp_path / "not there")
    with settings.open() as model, check.runnable(settings, model) as (path, name):
        assert (name, inspect(path).type) == ("BF16", "BF16")
    assert os.listdir(tmp_path) == []


def test_a_context_beyond_the_trained_one_is_said_before_the_work(q8_0: Path) -> None:
    said: list[object] = []
    settings = PerplexitySettings(file=q8_0, n_ctx=2560, chunks=1, threads=1)
    perplexity(settings, lambda p: said.append((p.done, p.total)), said.append)
    assert said[0] == "context of 2560 tokens: the model was trained on 2048, beyond that it gets worse."
    assert said[-1] == (1, 1)


def test_a_poor_terminal_shows_what_it_can(q8_0: Path) -> None:
    env = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = child("inspect", q8_0, "--full", env=env, stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert b"general.architecture" in done.stdout


def test_json_is_utf8_under_an_8_bit_locale(q8_0: Path, tmp_path: Path) -> None:
    named = tmp_path / "gr\u00f6\u00dfe-\u65e5\u672c.gguf"
    named.hardlink_to(q8_0)
    done = child("inspect", named, "--json", env=os.environ | {"PYTHONIOENCODING": "latin-1"}, stdout=subprocess.PIPE)
    assert json.loads(done.stdout.decode("utf-8"))["file"] == named.name


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_mistake(q8_0: Path, closed: str) -> None:
    line = f"exec {sys.executable} -m ggufkit run {q8_0} -n 2 {closed}"
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = child("plan", MODEL, stdout=full)
    assert done.returncode == 1
    assert done.stderr.decode() == "Error: No space left on device. Make room, then run again.\n"


def test_the_reader_may_go_away() -> None:
    line = f"{sys.executable} -m ggufkit plan {MODEL} | head -1"
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


class PlainLines:
    """A bar without a terminal: what it says of "work", on a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.said = 0.0, list[str]()
        monkeypatch.setattr(console.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(click, "echo", lambda message, err: self.said.append(message))
        self._update = console.plain("work")

    def at(self, seconds: float, progress: Progress) -> None:
        self.now = seconds
        self._update(progress)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> PlainLines:
    return PlainLines(monkeypatch)


def test_no_guess_before_there_is_something_to_go_by(lines: PlainLines) -> None:
    for seconds, done in ((10.0, 1), (20.0, 50)):
        lines.at(seconds, Progress(done, 100, "chunks"))
    assert ["left" in line for line in lines.said] == [False, True]


def test_the_guess_after_a_resume_knows_this_run_only(lines: PlainLines) -> None:
    for seconds, found in ((1.0, 300), (2.0, 600)):
        lines.at(seconds, Progress(found, 1000, "chunks", "looking through what is there", there=found))
    lines.at(12.0, Progress(700, 1000, "chunks", "second", there=600))
    assert lines.said == ["work: 70 %  700 of 1000 chunks, 30 s left  second"]


def test_what_knows_how_long_it_takes_is_believed(lines: PlainLines) -> None:
    lines.at(60.0, Progress(25, 100, "%", "step 1 of 2, read 50 %", step="read", left=240.0))
    assert lines.said == ["work: 25 %  1:00 of about 5:00, 4:00 left  step 1 of 2, read 50 %"]


@pytest.mark.parametrize("unit", ["bytes", "chunks", "weights"])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_progress_is_one_line_whose_numbers_survive(width: int, unit: str) -> None:
    shown = io.StringIO()
    terminal = Console(file=shown, width=width, force_terminal=True, color_system=None)
    bar = console.bar(terminal)
    update = console.drawn(bar, "quantize mixtral-8x7b-instruct-v0.1-Q4_K_M.gguf")
    terminal.print(bar.get_renderable())  # no total is known yet
    done, total = (37, 642) if unit == "chunks" else (3 << 29, 28 << 30)
    update(Progress(done, total, unit, "blk.13.ffn_down_exps.weight"))
    terminal.print(bar.get_renderable())
    lines = shown.getvalue().splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= width
    shown_as = {"bytes": "1.50 GiB of 28.00 GiB", "chunks": "37 of 642 chunks", "weights": "1.61 B of 30.1 B"}
    assert shown_as[unit] in lines[1]
