"""Memory is a promise: a checkpoint larger than the cap passes under it, and the planned peak is not exceeded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.workflows.quantize import opened

ROOT = Path(__file__).resolve().parents[2]
CAP = 448 << 20

CHILD = """
import sys
from pathlib import Path
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.workflows.quantize import quantize
quantize(QuantizeSettings(source=Path(sys.argv[1]), output=Path(sys.argv[2]), threads=2, max_memory=int(sys.argv[3])))
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines() if ":" in line)
print(int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak resident memory is read from /proc")
def test_checkpoint_larger_than_the_cap_passes_under_it(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from mixtral_shape import make

    source = make(tmp_path / "source", n_embd=4096, n_ff=2560, n_vocab=4096)
    weights = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    assert sum(f.stat().st_size for f in source.glob("*.safetensors")) > CAP, weights.keys()
    with opened(QuantizeSettings(source=source, output=tmp_path / "out.gguf", threads=2, max_memory=CAP)) as job:
        planned = job.peak_nbytes
    shown = subprocess.run(
        [sys.executable, "-c", CHILD, str(source), str(tmp_path / "out.gguf"), str(CAP)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert int(shown.stdout) <= planned <= CAP
