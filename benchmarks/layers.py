"""A checkpoint calibrated layer by layer, beside llama-imatrix on the whole model in the same type.

Run it: python benchmarks/layers.py [--model smollm2 | qwen2.5-coder | smollm2-moe] [--tokens 50000] [--threads 2]
The checkpoint is fetched where it is missing. llama-imatrix needs the whole of it as a GGUF of the checkpoint's own
type, which is made first and not counted. Prints the largest relative difference of any sum and of any count, and
seconds, processor seconds and peak memory of the whole commands, medians of rounds in turns. With --fitted instead a
whole `quantize --effort balanced --target-bpw 4.5` on the same tokens, once, beside the time of llama-imatrix and the
time and memory that --dry-run says.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import numpy as np
import peer
from side_by_side import GGUFKIT, TEXTS, Measured, in_turns, measured

import models
from ggufkit.formats.imatrix_file import read_imatrix
from ggufkit.runtime import machine

N_CTX = 512
TEXT = str(TEXTS / "calibration.txt")


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--model", type=arguments.real_model, default="qwen2.5-coder")
    parser.add_argument("--tokens", type=arguments.count, default=50_000)
    parser.add_argument("--threads", type=arguments.count, default=machine.choose_threads().n)
    parser.add_argument("--rounds", type=arguments.count, default=1)
    parser.add_argument("--fitted", action="store_true")
    options = parser.parse_args()
    folder, imatrix = models.folder(options.model), peer.tool("llama-imatrix")
    with tempfile.TemporaryDirectory(dir=models.home()) as work:
        whole, ours, theirs = (Path(work) / name for name in ("whole.gguf", "ours.gguf", "theirs.gguf"))
        measured([*GGUFKIT, "quantize", str(folder), "-o", str(whole), "--type", "BF16"])
        n_chunk, threads = options.tokens // N_CTX, str(options.threads)

        def read_by_peer() -> Measured:
            return measured([str(imatrix), "-m", str(whole), "-o", str(theirs), "-f", TEXT, "-c", str(N_CTX),
                             "--chunks", str(n_chunk), "-t", threads])  # fmt: skip

        def read_by_us() -> Measured:
            return measured([*GGUFKIT, "calibrate", str(folder), "-o", str(ours), "--force", "--text", TEXT,
                             "--tokens", str(n_chunk * N_CTX), "--threads", threads])  # fmt: skip

        if options.fitted:
            fitted(folder, Path(work) / "fitted.gguf", n_chunk * N_CTX, threads, read_by_peer().seconds)
            return
        runs = in_turns(options.rounds, read_by_us, read_by_peer)
        report(runs, *(read_imatrix(path).entries for path in (ours, theirs)), options)


def fitted(folder: Path, output: Path, n_tokens: int, threads: str, peer_seconds: float) -> None:
    """A whole fitted run, types chosen: against what was said of it, and against the peer's reading of the text."""
    command = [*GGUFKIT, "quantize", str(folder), "-o", str(output), "--effort", "balanced", "--target-bpw", "4.5",
               "--calibration-text", TEXT, "--tokens", str(n_tokens), "--threads", threads]  # fmt: skip
    said = json.loads(measured([*command, "--dry-run", "--json"]).out)["fitting"]
    took = measured(command)
    planned, memory = sum(said["seconds"].values()), said["memory_nbytes"] + said["mapped_nbytes"]
    print(f"fitted, types chosen: {took.seconds:.0f} s, {took.seconds / peer_seconds:.2f} times llama-imatrix")
    print(f"  time     said {planned:.0f} s, taken {took.seconds:.0f} s, ratio {planned / took.seconds:.2f}")
    print(f"  memory   said {memory / 2**20:.0f} MiB with mapped weights, taken {took.peak / 2**20:.0f} MiB")


def report(runs: list[tuple[Measured, ...]], ours: dict, theirs: dict, options: argparse.Namespace) -> None:
    sums = max(np.abs(ours[name].sums - one.sums).max() / one.sums.max() for name, one in theirs.items())
    counts = max(np.abs(ours[name].counts - one.counts).max() for name, one in theirs.items())
    print(f"{options.model}, {options.tokens} tokens, {options.threads} threads, {len(runs)} rounds in turns")
    print(f"differences: sums {sums:.1e} of the largest, counts {counts:g}")
    print(f"{'':22}{'by layer':>10}{'llama-imatrix':>15}{'ours / peer':>13}")
    for label, field, unit in (("whole command, s", "seconds", 1), ("processor, s", "processor", 1),
                               ("peak memory, MiB", "peak", 1 << 20)):  # fmt: skip
        a, b = (statistics.median(getattr(pair[side], field) for pair in runs) / unit for side in (0, 1))
        print(f"{label:22}{a:>10.2f}{b:>15.2f}{a / b:>13.2f}")


if __name__ == "__main__":
    arguments.run(main)
