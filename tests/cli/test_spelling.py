"""Misspelled commands, options, types and patterns, and names on the hub: one line that says what was meant."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufkit.cli import main

MODEL = Path(__file__).resolve().parents[2] / "models" / "tiny-mixtral"
RULE = '[[rules]]\ntype = "Q6_K"\n'


@pytest.mark.parametrize(
    ("args", "code", "wanted"),
    [
        (["quantise"], 2, "No such command 'quantise'. Did you mean quantize?"),
        (["chat", "x.gguf"], 2, "Did you mean run?"),
        (["frobnicate"], 2, "Known: plan, quantize, "),
        (["plan", MODEL, "--imatrx", "x"], 2, "--imatrix"),
        (["plan", MODEL, "--type", "q4km"], 2, "unknown type 'q4km'. Did you mean Q4_K_M?"),
        (["plan", MODEL, "--type", "Q9"], 2, "Known: F32, F16"),
        (["plan", "org/name"], 1, "hf download org/name --local-dir name"),
        (["run", "org/name-GGUF", "-p", "x"], 1, "hf download org/name-GGUF --include '*Q4_K_M*'"),
        (["compare", "org/name", "x.gguf"], 1, "hf download org/name"),
        (["gate", "org/name", "--baseline", "x.gguf"], 1, "hf download org/name"),
    ],
    ids=lambda value: " ".join(map(str, value[:3])) if isinstance(value, list) else "",
)
def test_the_commands_say_what_was_meant(args: list[object], code: int, wanted: str) -> None:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    assert wanted in result.output


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        (f'base = "Q4_K_M"\n{RULE}match = "blk.*.ffn_dwon_exps.weight"', "Did you mean blk.*.ffn_down_exps.weight"),
        (f'base = "Q4_K_M"\n{RULE}match = "blk.*.attn_v"', "Did you mean blk.*.attn_v.weight"),
        (f'base = "Q4_K_M"\n{RULE}layers = "30-40"', "Such tensors are in layers 0 to 3"),
        (f'base = "Q4_K_M"\n{RULE}match = "blk.*.attn_v.weight"\nlayers = "9"', "Such tensors are in layers 0 to 3"),
        ('base = "q4km"', "Did you mean Q4_K_M?"),
        ('default = "Q4_K_M"', "Q4_K_M is a mixture, Q4_K a type"),
        (f'base = "Q4_K_M"\n{RULE}role = "ffndown"', "Did you mean ffn_down?"),
        ('bases = "Q4_K_M"', "Did you mean base?"),
    ],
)
def test_recipes_say_what_was_meant(recipe: str, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(recipe)
    result = CliRunner().invoke(main, ["plan", str(MODEL), "--recipe", str(path)])
    assert result.exit_code == 1, result.output
    assert wanted in result.output
