"""Calibrating and fitting experts of Mixtral's shapes under a cap: planned memory and time against those measured.

Run it: python benchmarks/fitted.py [--effort balanced] [--max-memory 6GiB] [--n-expert 2] [--n-ff 14336]
                                   [--tokens 4096] [--threads 2]
One layer, 4096 wide, weights of noise, from safetensors to Q4_K_S with `ggufkit quantize --calibrate`. Memory is what
the process holds of its own (RssAnon); pages of the quick file that the model is run from are mapped and not counted.
Linux only: it is read from /proc.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mixtral_shape
from side_by_side import GGUFKIT, ROOT

from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting.encoders import Effort
from ggufkit.reports.units import human_bytes, parse_bytes
from ggufkit.workflows.fitted import FitSettings, cost_of


def own_nbytes(pid: int) -> int:
    """Bytes of anonymous memory that the process holds, 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0].split()[1]) * 1024 if found else 0


def run(command: list[str]) -> tuple[float, int]:
    """Seconds, and the most own memory seen every 20 ms."""
    started, most = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    while process.poll() is None:
        most = max(most, own_nbytes(process.pid))
        time.sleep(0.02)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--effort", default="balanced", choices=list(Effort))
    parser.add_argument("--max-memory", default="6GiB")
    parser.add_argument("--n-expert", type=int, default=2)
    parser.add_argument("--n-ff", type=int, default=14336)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = mixtral_shape.make(Path(folder) / "source", n_ff=options.n_ff, n_expert=options.n_expert, n_vocab=2048)
        output = Path(folder) / "out.gguf"
        cap = parse_bytes(options.max_memory)
        job = QuantizeSettings(source=source, output=output, recipe="Q4_K_S", threads=options.threads, max_memory=cap)
        cost = cost_of(FitSettings(quantize=job, effort=Effort(options.effort), n_tokens=options.tokens))
        command = [*GGUFKIT, "quantize", str(source), "-o", str(output), "--type", "Q4_K_S", "--effort", options.effort,
                   "--tokens", str(options.tokens), "--max-memory", options.max_memory,
                   "--threads", str(options.threads)]  # fmt: skip
        seconds, most = run(command)
    print(f"{options.n_expert} experts of 4096 x {options.n_ff}, {options.effort}, {options.threads} threads, "
          f"{options.tokens} tokens, --max-memory {options.max_memory}")  # fmt: skip
    print(f"memory    planned {human_bytes(cost.peak_nbytes)}, measured {human_bytes(most)}")
    print(f"encoding  planned {cost.encode_seconds:.0f} s; all of the command {seconds:.0f} s, {cost.n_walks} walk(s)")
    if most > cost.peak_nbytes:
        sys.exit("more memory than planned")


if __name__ == "__main__":
    main()
