"""`ggufkit calibrate` and the calibrating options of `ggufkit quantize`: contradictions are named, merging adds up."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ggufkit.cli import main
from ggufkit.formats.imatrix import Imatrix, ImatrixEntry
from ggufkit.formats.imatrix_file import read_imatrix, write_imatrix

MODEL = str(Path(__file__).resolve().parents[2] / "models" / "tiny-mixtral")


def importance(path: Path, tokens: int) -> str:
    counts = np.array([tokens, 0, tokens, 2 * tokens], dtype=np.float32)
    entries = {
        "blk.0.ffn_up_exps.weight": ImatrixEntry(np.full((4, 8), tokens, np.float32), counts),
        "blk.0.attn_q.weight": ImatrixEntry(np.ones((1, 8), np.float32), np.array([2 * tokens], np.float32)),
    }
    write_imatrix(path, Imatrix((path.name,), tokens // 512, 512, entries))
    return str(path)


def test_merging_adds_counts_and_reports_coverage(tmp_path: Path) -> None:
    first, second = importance(tmp_path / "a.gguf", 1024), importance(tmp_path / "b.gguf", 2048)
    out = tmp_path / "sum.gguf"
    done = CliRunner().invoke(main, ["calibrate", "--merge", first, "--merge", second, "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    merged = read_imatrix(out)
    assert merged.entries["blk.0.ffn_up_exps.weight"].counts.tolist() == [3072, 0, 3072, 6144]
    assert (merged.chunk_count, merged.datasets) == (6, ("a.gguf", "b.gguf"))
    assert json.loads(done.stdout)["coverage"]["under_visited"] == [{"layer": 0, "expert": 1}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["calibrate", "-o", "OUT"], "name the GGUF to calibrate on"),
        (["calibrate", "x.gguf", "--merge", "a.gguf", "-o", "OUT"], "without a model"),
        (["quantize", MODEL, "-o", "OUT", "--target-bpw", "4", "--max-kld", "0.1"], "give one of --target-size"),
        (
            ["quantize", MODEL, "-o", "OUT", "--type", "Q4_K_M", "--target-bpw", "4"],
            "a target chooses the types itself",
        ),
        (["quantize", MODEL, "-o", "OUT", "--calibrate", "--save-recipe", "r.toml"], "Give a target with it"),
        (["quantize", MODEL, "-o", "OUT", "--calibrate", "--imatrix", "i.gguf"], "exclude each other"),
    ],
)
def test_contradictions_are_usage_errors(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(tmp_path / "out.gguf") if a == "OUT" else a for a in arguments])
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_calibrated_layer_by_layer(tmp_path: Path) -> None:
    out = tmp_path / "imatrix.gguf"
    done = CliRunner().invoke(main, ["calibrate", MODEL, "-o", str(out), "--tokens", "1024", "-t", "1", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["model"], report["n_tokens"], report["n_entries"]) == ("tiny-mixtral", 1024, 32)
    assert [path.name for path in tmp_path.iterdir()] == ["imatrix.gguf"]


def test_a_dry_run_with_a_target_shows_a_guess_within_it(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    done = CliRunner().invoke(main, ["quantize", MODEL, "-o", str(out), "--target-bpw", "4.5", "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert 4.2 < result["bpw"] <= 4.5
    assert any("guess from sizes alone" in note for note in result["notes"])
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_what_fitting_costs_and_shows_the_plan(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    done = CliRunner().invoke(main, ["quantize", MODEL, "-o", str(out), "--effort", "best", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "effort best: about" in done.stderr and "calibration" in done.stderr
    assert "MiB of memory" in done.stderr and "Q4_K_M" in done.stdout
    assert not list(tmp_path.iterdir())
