"""The main job on the shipped model: the reference bytes, the same bytes every time, and nothing half-written."""

import dataclasses
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import quant
from ggufkit.encoding import slabs
from ggufkit.encoding.destination import copy_path
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import InputError, OutputError, UsageError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.unfinished import journal_path, partial_path
from ggufkit.progress import Progress
from ggufkit.workflows.quantize import opened, quantize

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny-mixtral"
DATA = ROOT / "tests" / "data" / "tiny-mixtral"
FIGURES = json.loads((DATA / "figures.json").read_text())["files"]
QUANTIZED = [name for name in FIGURES if name not in ("bf16", "f16")]


def settings(output: Path, recipe: str = "Q4_K_M", **changes: object) -> QuantizeSettings:
    base = QuantizeSettings(source=MODEL, output=output, recipe=recipe, encoder=quant.Encoder.GGML, threads=2)
    return dataclasses.replace(base, **changes)


def tensor_hashes(path: Path) -> dict[str, tuple[str, str]]:
    file = GgufFile.open(path)
    found = {t.name: (t.dtype, hashlib.sha256(t.raw_rows(0, t.n_rows).tobytes()).hexdigest()) for t in file.tensors}
    file.close()
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", QUANTIZED)
def test_bytes_are_those_of_convert_and_llama_quantize(name: str, tmp_path: Path) -> None:
    recipe, _, with_imatrix = name.partition("+")
    imatrix = DATA.parent / "tiny-mixtral.imatrix.gguf" if with_imatrix else None
    quantize(settings(tmp_path / "out.gguf", recipe, imatrix=imatrix))
    wanted = {key: tuple(row) for key, row in FIGURES[name]["tensors"].items()}
    assert tensor_hashes(tmp_path / "out.gguf") == wanted


@pytest.mark.parametrize("encoder", list(quant.Encoder))
def test_same_bytes_for_any_threads_and_slabs(
    encoder: quant.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = set()
    for threads, slab in ((1, 1 << 22), (3, 1 << 10), (2, 5000)):
        out = tmp_path / f"{threads}.gguf"
        monkeypatch.setattr(slabs, "SLAB_WEIGHTS", slab)
        quantize(settings(out, threads=threads, encoder=encoder))
        hashes.add(sha256(out))
    assert len(hashes) == 1


def test_progress_ends_at_the_size_of_the_file(tmp_path: Path) -> None:
    seen = []
    report = quantize(settings(tmp_path / "out.gguf"), seen.append)
    assert seen[-1].done == seen[-1].total == (tmp_path / "out.gguf").stat().st_size
    assert report.plan.file_nbytes == (tmp_path / "out.gguf").stat().st_size


class InterruptedOnPurposeError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 9, 30])
def test_resume_finishes_to_the_same_bytes(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole.gguf"
    quantize(settings(whole))
    out, count = tmp_path / "out.gguf", 0

    def stop(_: object) -> None:
        nonlocal count
        count += 1
        if count == after:
            raise InterruptedOnPurposeError

    with pytest.raises(InterruptedOnPurposeError):
        quantize(settings(out), stop)
    assert not out.exists()
    assert partial_path(out).exists()
    with pytest.raises(OutputError, match="--resume"):
        quantize(settings(out))
    monkeypatch.setattr(slabs, "SLAB_WEIGHTS", 7 << 10)  # another slab size than the first run
    seen: list[Progress] = []
    report = quantize(settings(out, resume=True, threads=1), seen.append)
    assert report.resumed_nbytes > 0
    looked = [now for now in seen if now.what == "looking through what is there"]
    assert looked[-1].done == looked[-1].there == report.resumed_nbytes
    parts = [now.part for now in seen]
    assert parts == sorted(parts) and parts[-1] == 1
    assert sha256(out) == sha256(whole)
    assert not partial_path(out).exists()
    assert not journal_path(out).exists()


def test_a_copy_that_a_killed_check_left_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    copy = copy_path(out, "check")
    for path in (copy, partial_path(copy), journal_path(copy)):
        path.write_bytes(b"left over")
    quantize(settings(out))
    assert os.listdir(tmp_path) == ["out.gguf"]


@pytest.mark.parametrize("name", ["model.safetensors", "model", "added_tokens.json"])
def test_no_output_passes_for_a_part_of_the_checkpoint(name: str, tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    shutil.copytree(MODEL, source)
    (source / name).unlink(missing_ok=True)
    before = sorted(os.listdir(source))
    with pytest.raises(OutputError, match=r"would pass for a part of the checkpoint. Name it \w+\.gguf\."):
        quantize(dataclasses.replace(settings(source / name), source=source))
    assert sorted(os.listdir(source)) == before


def test_resume_of_other_settings_is_refused_and_restart_starts_again(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"

    def stop(_: object) -> None:
        raise InterruptedOnPurposeError

    with pytest.raises(InterruptedOnPurposeError):
        quantize(settings(out), stop)
    with pytest.raises(OutputError, match="other settings"):
        quantize(settings(out, "Q5_K_M", resume=True))
    quantize(settings(out, "Q5_K_M", restart=True))
    quantize(settings(tmp_path / "whole.gguf", "Q5_K_M"))
    assert sha256(out) == sha256(tmp_path / "whole.gguf")


def command(out: Path, *more: str) -> list[str]:
    args = ["quantize", str(MODEL), "-o", str(out), "--encoder", "ggml", "--threads", "1", *more]
    return [sys.executable, "-m", "ggufkit", *args]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_a_random_moment_then_resumed(seed: int, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    quantize(settings(whole, "IQ3_S"))
    child = subprocess.Popen(command(out, "--type", "IQ3_S"), cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not journal_path(out).exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not out.exists() or sha256(out) == sha256(whole)
    done = subprocess.run(
        command(out, "--type", "IQ3_S", "--resume", "--force"), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert sha256(out) == sha256(whole)


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    child = subprocess.Popen(command(out, "--type", "IQ3_S"), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not journal_path(out).exists() and child.poll() is None:
        time.sleep(0.005)
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, shown = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Continue with --resume" in shown
    assert "Traceback" not in shown
    assert not out.exists()
    assert partial_path(out).exists()


def test_output_equal_to_input_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    quantize(settings(source, "F16"))
    before = sha256(source)
    with pytest.raises(OutputError, match="is the input itself"):
        quantize(settings(source, source=source, force=True))
    assert sha256(source) == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "imatrix.gguf", "link.gguf", "x.gguf"])
def test_nothing_that_is_read_is_written_over(name: str, tmp_path: Path) -> None:
    """Files of the checkpoint, importance, a hard link to a shard, and a shard called like the unfinished output."""
    model, imatrix = tmp_path / "model", tmp_path / "imatrix.gguf"
    shutil.copytree(MODEL, model)
    imatrix.write_bytes((DATA.parent / "tiny-mixtral.imatrix.gguf").read_bytes())
    (tmp_path / "link.gguf").hardlink_to(model / "model-00001-of-00002.safetensors")
    (tmp_path / "x.gguf.partial").hardlink_to(model / "model-00002-of-00002.safetensors")
    before = {path: sha256(path) for path in tmp_path.rglob("*") if path.is_file()}
    out = (model if name in os.listdir(model) else tmp_path) / name
    with pytest.raises(OutputError, match="is the input itself"):
        quantize(settings(out, source=model, imatrix=imatrix, force=True, restart=True))
    assert {path: sha256(path) for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_source_that_goes_away_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, calls = tmp_path / "out.gguf", 0
    preadv = os.preadv

    def failing(*args: object) -> int:
        nonlocal calls
        calls += 1
        if calls > 150:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(*args)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(InputError, match="Input/output error"):
        quantize(settings(out))
    monkeypatch.undo()
    assert quantize(settings(out, resume=True)).resumed_nbytes > 0
    quantize(settings(tmp_path / "whole.gguf"))
    assert sha256(out) == sha256(tmp_path / "whole.gguf")


def test_a_disk_that_fills_up_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, calls = tmp_path / "out.gguf", 0
    pwrite = os.pwrite

    def failing(*args: object) -> int:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(*args)

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(OutputError, match="No space left on device.*--resume"):
        quantize(settings(out))
    monkeypatch.undo()
    assert not out.exists()
    assert quantize(settings(out, resume=True)).resumed_nbytes > 0
    quantize(settings(tmp_path / "whole.gguf"))
    assert sha256(out) == sha256(tmp_path / "whole.gguf")


def test_importance_counts_in_the_planned_memory(tmp_path: Path) -> None:
    imatrix = DATA.parent / "tiny-mixtral.imatrix.gguf"
    with opened(settings(tmp_path / "x", provenance=False)) as job:
        without = job.peak_nbytes
    with opened(settings(tmp_path / "x", imatrix=imatrix, provenance=False)) as job:
        assert job.peak_nbytes >= without + imatrix.stat().st_size


def test_existing_output_is_kept_without_force(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists. Replace it with --force"):
        quantize(settings(out))
    assert out.read_bytes() == b"precious"
    quantize(settings(out, force=True))
    assert out.stat().st_size > 1 << 20


def test_too_little_memory_names_the_least_that_would_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--max-memory of 1000 bytes is too small: .* need \d+MiB"):
        quantize(settings(tmp_path / "out.gguf", max_memory=1000))
    assert os.listdir(tmp_path) == []


def test_nan_names_its_tensor_and_leaves_nothing(tmp_path: Path) -> None:
    model = poisoned(tmp_path, bytes([0xC0, 0x7F]))  # a bf16 NaN
    with pytest.raises(
        InputError, match=r"w1.weight .*ffn_gate_exps.*expert 3\): row 1 column 2 is nan.*--allow-nonfinite"
    ):
        quantize(settings(tmp_path / "out.gguf", source=model))
    assert sorted(os.listdir(tmp_path)) == ["model"]
    quantize(settings(tmp_path / "out.gguf", "F32", source=model, allow_nonfinite=True))


def test_weights_beyond_f16_are_refused_by_f16_only(tmp_path: Path) -> None:
    model = poisoned(tmp_path, bytes([0x80, 0x47]))  # 65536 in bf16
    with pytest.raises(InputError, match="65536, which F16 cannot hold; use --type bf16"):
        quantize(settings(tmp_path / "out.gguf", "F16", source=model))
    quantize(settings(tmp_path / "out.gguf", "BF16", source=model))


def poisoned(folder: Path, value: bytes) -> Path:
    """A copy of the shipped model with one weight of one expert replaced."""
    model = folder / "model"
    shutil.copytree(MODEL, model)
    name = "model.layers.0.block_sparse_moe.experts.3.w1.weight"
    shard = model / json.loads((model / "model.safetensors.index.json").read_text())["weight_map"][name]
    with shard.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        start = json.loads(file.read(length))[name]["data_offsets"][0]
        file.seek(8 + length + start + 2 * (256 * 1 + 2))
        file.write(value)
    return model


@pytest.mark.parametrize("source", ["folder", "gguf"])
def test_a_source_that_changes_meanwhile_gives_no_file(source: str, tmp_path: Path) -> None:
    """Overwritten in place after the header was read: its first half belongs to one model, its second to another."""
    if source == "folder":
        shutil.copytree(MODEL, tmp_path / "model")
        given = tmp_path / "model"
        weights = sorted(given.glob("*.safetensors"))[-1]
    else:
        given = weights = tmp_path / "model.gguf"
        quantize(settings(given, "F16"))
    out = tmp_path / "out.gguf"

    def overwrite(_: Progress) -> None:
        with weights.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(last)

    with pytest.raises(InputError, match="changed while it was read"):
        quantize(settings(out, "Q8_0", source=given), overwrite)
    assert not out.exists()
    assert not partial_path(out).exists()
