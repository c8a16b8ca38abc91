"""Planned and measured memory of the commands that run models: real vocabularies, chunks of 512 and 4,096 tokens.

    make bench-memory
    .venv/bin/python benchmarks/memory.py --model FILE.gguf

Without --model: a small random model with a vocabulary of 150,000 tokens. Measured is the most resident memory of the
process, pages of the mapped file included. Exits with 1 where a command took more than was planned.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import arguments
import mixtral_shape

from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.formats.text import shipped_text
from ggufkit.reports.units import human_bytes, parse_bytes
from ggufkit.workflows.quantize import quantize

ROOT = Path(__file__).resolve().parent.parent
# what is held, and what is mapped besides
_FITTED = re.compile(r"([\d.]+ ?[KMG]iB) of memory(?: besides ([\d.]+ ?[KMG]iB))?")
CHILD = """
import re, sys
from ggufkit.cli import main
try:
    main(sys.argv[1:])
finally:
    print("peak", re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


def peak_of(*words: object) -> tuple[int, int]:
    """Bytes that the command said it would take, and that it took."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, words)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    said = re.search(r"memory: about ([\d.]+ ?[KMG]iB)", done.stderr) or _FITTED.search(done.stderr)
    peak = re.search(r"peak (\d+)", done.stderr)
    if done.returncode or not said or not peak:
        sys.exit(f"{' '.join(map(str, words))}: {done.stderr}")
    return sum(parse_bytes(part.replace(" ", "")) for part in said.groups() if part), int(peak[1]) * 1024


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--model", type=arguments.file)
    parser.add_argument("--ctx", type=arguments.listed(arguments.count), default="512,4096")
    options = parser.parse_args()
    over = False
    with tempfile.TemporaryDirectory() as folder:
        text, model = Path(folder) / "text.txt", options.model or Path(folder) / "model.gguf"
        text.write_text(shipped_text("evaluation-prose.txt")[:120_000])
        if options.model is None:
            source = mixtral_shape.make(
                Path(folder) / "source", n_embd=512, n_ff=1024, n_expert=4, n_layer=2, n_vocab=150_000
            )
            quantize(QuantizeSettings(source=source, output=model, recipe="BF16"))
        print(f"{'command':12} {'chunk':>6} {'planned':>10} {'measured':>10}")
        for n_ctx in options.ctx:
            rest = ("--text", text, "--ctx", n_ctx, "--threads", 2)
            baseline = Path(folder) / f"{n_ctx}.baseline"
            for words in (
                ("perplexity", model, *rest, "--chunks", 2), ("compare", model, model, *rest, "--chunks", 2),
                ("baseline", model, "-o", baseline, *rest, "--chunks", 2),
                ("calibrate", model, "-o", Path(folder) / f"{n_ctx}.imatrix", *rest, "--tokens", 2 * n_ctx),
            ):  # fmt: skip
                planned, measured = peak_of(*words)
                over |= measured > planned
                print(f"{words[0]:12} {n_ctx:>6} {human_bytes(planned):>10} {human_bytes(measured):>10}", flush=True)
        fit = ("quantize", model, "-o", Path(folder) / "out.gguf", "--effort", "balanced", "--type", "Q4_K_M",
               "--tokens", 8 * 512, "--calibration-text", text, "--threads", 2)  # fmt: skip
        planned, measured = peak_of(*fit)
        over |= measured > planned
        print(f"{'quantize':12} {512:>6} {human_bytes(planned):>10} {human_bytes(measured):>10}", flush=True)
    sys.exit(over)


if __name__ == "__main__":
    arguments.run(main)
