"""`import ggufkit`: the verbs are there, importing is cheap, the document's examples run."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import ggufkit
from ggufkit import api
from ggufkit.cli import COMMANDS, main
from tests.formats.build import U32
from tests.runtime.edited import edited, key

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = (ROOT / "docs" / "python.md").read_text()
VERBS = ("plan", "quantize", "calibrate", "perplexity", "compare", "diff", "baseline", "gate", "inspect",
         "convert-lora")  # fmt: skip
# options that are of the terminal alone, or that Python says otherwise
OF_THE_TERMINAL = {
    "as_json", "device", "dry_run", "check", "text_of_check", "save_recipe", "provenance", "calibrate", "merge",
    "skip_tokens", "junit", "markdown", "github", "seed", "tensors", "full", "template", "type_name",
}  # fmt: skip


def test_the_examples_run(tmp_path: Path) -> None:
    """All of them, in their order, in one process each, beside links to the shipped models."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "out").mkdir()
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert len(examples) >= 6
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    shown = ""
    for example in examples:
        done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, env=env)
        assert done.returncode == 0, f"{example}\n{done.stderr}"
        shown += done.stdout
    assert "Did you mean Q4_K_M?" in shown
    assert "length 20" in shown or "stop" in shown


def test_importing_loads_nothing_but_itself() -> None:
    code = "import sys; before = set(sys.modules); import ggufkit; print(*sorted(set(sys.modules) - before))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.split() == ["ggufkit"]


@pytest.mark.parametrize("name", ggufkit.__all__)
def test_every_name_is_there_once(name: str) -> None:
    assert getattr(ggufkit, name) is getattr(ggufkit, name)
    assert name in dir(ggufkit)
    assert (getattr(ggufkit, name).__doc__ or "").strip()


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = ggufkit.quantise  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", VERBS)
def test_functions_have_the_options_of_their_commands(verb: str) -> None:
    command = main.get_command(None, verb)  # type: ignore[arg-type]
    assert verb in COMMANDS and isinstance(command, click.Command)
    options = {p.name for p in command.params if isinstance(p, click.Option)} - OF_THE_TERMINAL
    known: Any = set(inspect.signature(getattr(api, verb.replace("-", "_"))).parameters)
    missing = options - known - {"quantize": {"text"}, "gate": {"output"}}.get(verb, set())
    assert missing == set()


def test_what_goes_wrong_is_a_sentence(tmp_path: Path) -> None:
    model = ROOT / "models" / "stories260K"
    with pytest.raises(ggufkit.GgufkitError, match="does not exist"):
        ggufkit.plan(tmp_path / "no")
    with pytest.raises(ggufkit.GgufkitError, match="is not a size"):
        ggufkit.quantize(model, tmp_path / "x.gguf", max_memory="much")
    with pytest.raises(ggufkit.GgufkitError, match="give one of target_size"):
        ggufkit.quantize(model, tmp_path / "x.gguf", target_bpw=4, max_kld=0.1)
    with pytest.raises(ggufkit.GgufkitError, match="chooses the types itself"):
        ggufkit.quantize(model, tmp_path / "x.gguf", type="Q4_0", target_bpw=4)
    assert not list(tmp_path.iterdir())


def test_a_file_that_would_end_the_library_is_refused_by_name(tmp_path: Path) -> None:
    """There is no boundary here: what the library does not survive must not reach it."""
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    ggufkit.quantize(ROOT / "models" / "stories260K", good, type="F16")
    edited(good, bad, key("llama.rope.dimension_count", U32, 0))
    with pytest.raises(ggufkit.GgufkitError, match=r"bad\.gguf: llama\.rope\.dimension_count is 0, wanted 2 or more"):
        ggufkit.load(bad)
    with pytest.raises(ggufkit.GgufkitError, match=r"dimension_count is 0"):
        ggufkit.perplexity(bad)


def test_a_model_answers_again_from_what_it_has_computed(tmp_path: Path) -> None:
    ggufkit.quantize(ROOT / "models" / "stories260K", tmp_path / "s.gguf", type="F16")
    with ggufkit.load(tmp_path / "s.gguf", n_ctx=128, threads=1) as model:
        one = model.generate("Once upon a time", max_tokens=8, temperature=0)
        two = model.generate("Once upon a time", max_tokens=8, temperature=0)
        assert str(one) == str(two) == "".join(model.stream("Once upon a time", max_tokens=8, temperature=0))
        assert two.stats.n_kept > 0
        assert model.n_ctx == 128
        assert model.tokenize("Once")[0] == 1
        with pytest.raises(ggufkit.GgufkitError, match=r"unknown sampling option 'temprature'.*temperature"):
            model.generate("Once", temprature=0)
        with pytest.raises(ggufkit.GgufkitError, match="no chat template"):
            model.chat("Hello")
