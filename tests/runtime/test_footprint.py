"""The memory that is said before a model runs is what it takes at most, with a vocabulary as real models have it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.runtime import footprint
from ggufkit.workflows.quantize import quantize

ROOT = Path(__file__).resolve().parents[2]
N_VOCAB = 100_000
CHILD = """
import re, sys
from ggufkit.cli import main
try:
    main(sys.argv[1:])
finally:
    print("peak", re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model whose logits of a decode are a tenth of a gigabyte."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from mixtral_shape import make

    folder = tmp_path_factory.mktemp("wide")
    source = make(folder / "source", n_embd=256, n_ff=256, n_expert=2, n_vocab=N_VOCAB)
    quantize(QuantizeSettings(source=source, output=folder / "model.gguf", recipe="BF16", threads=1))
    return folder / "model.gguf"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("It was the best of times, it was the worst of times. " * 400)
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak resident memory is read from /proc")
@pytest.mark.parametrize("n_ctx", [512, 4096])
@pytest.mark.parametrize("command", ["perplexity", "calibrate"])
def test_planned_memory_is_not_exceeded(command: str, n_ctx: int, model: Path, text: Path, tmp_path: Path) -> None:
    words = [command, str(model), "--text", str(text), "--ctx", str(n_ctx), "--threads", "1"]
    if command == "calibrate":
        words += ["-o", str(tmp_path / "out.gguf"), "--tokens", str(n_ctx)]
        planned = footprint.calibrated(model, n_ctx)
    else:
        words += ["--chunks", "1"]
        planned = footprint.read_alone(model, n_ctx)
    done = subprocess.run([sys.executable, "-c", CHILD, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "memory: about " in done.stderr
    peak = re.search(r"peak (\d+)", done.stderr)
    assert peak is not None
    assert planned.total / 2 < int(peak[1]) * 1024 <= planned.total


def test_two_models_take_the_memory_of_both(model: Path) -> None:
    one, two = footprint.scored([model], 512), footprint.scored([model, model], 512)
    assert two.logits == 2 * one.logits and two.weights == 2 * one.weights and two.base == one.base
