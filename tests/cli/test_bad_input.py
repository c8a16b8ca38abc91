"""Every wrong input is one clear error: what, where, what to do; exit 2 for usage, 1 for the rest; nothing written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufkit.cli import main

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny-mixtral"
IMATRIX = ROOT / "tests" / "data" / "tiny-mixtral.imatrix.gguf"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"

Change = Callable[[Path], None]


def run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert not isinstance(result.exception, AssertionError)
    assert "Traceback" not in result.output
    assert "mistake of ggufkit" not in result.output
    return result.exit_code, result.output


def edit_json(name: str, **changes: object) -> Change:
    def change(model: Path) -> None:
        content = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps(content | changes))

    return change


def edit_map(change_map: Callable[[dict[str, str]], object]) -> Change:
    def change(model: Path) -> None:
        content = json.loads((model / INDEX).read_text())
        change_map(content["weight_map"])
        (model / INDEX).write_text(json.dumps(content))

    return change


def edit_header(shard: str, change_header: Callable[[dict], object]) -> Change:
    """Change the JSON header of a shard and keep its data."""

    def change(model: Path) -> None:
        data = (model / shard).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change_header(header)
        text = json.dumps(header).encode()
        (model / shard).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return change


def cut(shard: str, nbytes: int) -> Change:
    return lambda model: os.truncate(model / shard, (model / shard).stat().st_size - nbytes)


def unlink(*names: str) -> Change:
    def change(model: Path) -> None:
        for name in names:
            (model / name).unlink()

    return change


def pickle_only(model: Path) -> None:
    unlink(FIRST, SECOND, INDEX)(model)
    (model / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")


def rename_tensor(header: dict) -> None:
    header["model.layers.0.mystery.weight"] = header.pop("model.layers.0.input_layernorm.weight")


def overlap(header: dict) -> None:
    names = [n for n in header if n != "__metadata__"]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]


Q = "model.layers.0.self_attn.q_proj.weight"
CASES: dict[str, tuple[Change, str]] = {
    "missing shard": (unlink(SECOND), SECOND),
    "cut-off shard": (cut(SECOND, 100), "cut short"),
    "shard outside the folder": (edit_map(lambda m: m.update({Q: "../" + FIRST})), "../"),
    "absolute shard": (edit_map(lambda m: m.update({Q: "/etc/passwd"})), "/etc/passwd"),
    "header lies about a size": (edit_header(FIRST, lambda h: h[Q].update(shape=[256, 255])), Q),
    "header overlaps": (edit_header(FIRST, overlap), FIRST),
    "unknown dtype": (edit_header(FIRST, lambda h: h[Q].update(dtype="F12")), "F12"),
    "unknown architecture": (edit_json("config.json", architectures=["GreatForCausalLM"]), "MixtralForCausalLM"),
    "missing config": (unlink("config.json"), "config.json"),
    "config no json": (lambda model: (model / "config.json").write_text("{"), "config.json"),
    "missing tokenizer": (unlink("tokenizer.model"), "tokenizer"),
    "tokenizer cut off": (cut("tokenizer.model", 5000), "tokenizer.model"),
    "tensor absent": (edit_map(lambda m: m.pop(Q)), Q),
    "tensor left over": (edit_header(FIRST, rename_tensor), "layers.0"),
    "hidden size lies": (edit_json("config.json", hidden_size=512), "512"),
    "layers lie": (edit_json("config.json", num_hidden_layers=5), "blk.4"),
    "pickle": (pickle_only, "pytorch_model.bin"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("verb", ["plan", "quantize"])
def test_bad_checkpoint(case: str, verb: str, tmp_path: Path) -> None:
    change, wanted = CASES[case]
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(MODEL, model)
    out.mkdir()
    change(model)
    more = ["-o", out / "model.gguf"] if verb == "quantize" else []
    code, shown = run(verb, model, *more)
    assert code == 1, shown
    assert wanted in shown
    assert len(shown.splitlines()) <= 3, shown
    assert list(out.iterdir()) == []


def test_imatrix_of_another_model(tmp_path: Path) -> None:
    code, shown = run("quantize", ROOT / "models" / "stories260K", "-o", tmp_path / "a.gguf", "--imatrix", IMATRIX)
    assert code == 1
    assert "tiny-mixtral.imatrix.gguf: importance of blk.0" in shown
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("args", "code", "wanted"),
    [
        (["quantize", MODEL], 2, "-o"),
        (["quantize", MODEL, "-o", "x.gguf", "--type", "Q9_K"], 2, "Q4_K_M"),
        (["quantize", MODEL, "-o", "x.gguf", "--threads", "0"], 2, "threads"),
        (["quantize", MODEL, "-o", "x.gguf", "--max-memory", "lots"], 2, "2GiB"),
        (["quantize", MODEL, "-o", "x.gguf", "--max-memory", "1M"], 2, "too small"),
        (["quantize", MODEL, "-o", "no/such/folder/x.gguf"], 1, "no/such/folder"),
        (["quantize", MODEL, "-o", "."], 1, "is a folder"),
        (["quantize", "no-such-model", "-o", "x.gguf"], 1, "no-such-model"),
        (["quantize", "pyproject.toml", "-o", "x.gguf"], 1, "pyproject.toml"),
        (["quantize", MODEL, "-o", "x.gguf", "--imatrix", "none.gguf"], 1, "none.gguf"),
        (["quantize", MODEL, "-o", "x.gguf", "--recipe", "none.toml"], 1, "none.toml"),
        (["plan", MODEL, "--type", "Q4_K_XXL"], 2, "Q4_K_M"),
        (["inspect", "none.gguf"], 1, "none.gguf"),
        (["inspect", "LICENSE"], 1, "not a GGUF file"),
        (["perplexity", "LICENSE"], 1, "not a GGUF file"),
        (["run", "LICENSE", "-p", "x"], 1, "not a GGUF file"),
        (["run", "none.gguf", "-p", "x", "--temp", "-1"], 2, "temp"),
        (["wobble"], 2, "wobble"),
    ],
    ids=lambda value: " ".join(map(str, value))[-50:] if isinstance(value, list) else "",
)
def test_bad_arguments(args: list, code: int, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    got, shown = run(*args)
    assert wanted in shown
    assert got == code, shown
    assert not (ROOT / "x.gguf").exists()


def test_unwritable_folder(tmp_path: Path) -> None:
    """/proc is a folder nobody can write to, root included."""
    code, shown = run("quantize", MODEL, "-o", "/proc/x.gguf")
    assert code == 1
    assert "/proc" in shown


def test_not_enough_disk_is_found_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    code, shown = run("quantize", MODEL, "-o", tmp_path / "x.gguf")
    assert code == 1
    assert "1048576 are free" in shown
    assert os.listdir(tmp_path) == []


def test_errors_go_to_stderr_and_results_to_stdout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ggufkit", "inspect", str(tmp_path / "none.gguf")]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith("Error: ")
