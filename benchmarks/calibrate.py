"""Importance of one model and one text: `ggufkit calibrate` beside llama-imatrix, in turns.

Run it: python benchmarks/calibrate.py [--peer PATH] [--type BF16] [--chunks 400] [--threads 2] [--rounds 5] [--wide]
The model is the shipped one; --wide takes one layer of Mixtral's shapes with weights of noise. The peer is looked for
on PATH, or under LLAMA_IMATRIX. Prints the largest relative difference of any mean square and of any count, and medians
of seconds, processor seconds and peak memory of the whole commands.
"""

import argparse
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import numpy as np
from side_by_side import GGUFKIT, TEXTS, Measured, in_turns, measured, parser, shipped_model, wide_model

from ggufkit.formats.imatrix_file import read_imatrix

TEXT = TEXTS / "calibration.txt"
N_CTX = 512


def ours(model: Path, options: argparse.Namespace) -> Measured:
    output = model.with_name("ours.gguf")
    command = [*GGUFKIT, "calibrate", str(model), "-o", str(output), "--force", "--text", str(TEXT)]
    return measured([*command, "--tokens", str(options.chunks * N_CTX), "--threads", str(options.threads)])


def theirs(model: Path, options: argparse.Namespace) -> Measured:
    output = model.with_name("theirs.gguf")
    command = [options.peer, "-m", str(model), "-o", str(output), "-f", str(TEXT), "-c", str(N_CTX)]
    return measured([*command, "--chunks", str(options.chunks), "-t", str(options.threads)])


def differences(folder: Path) -> tuple[float, float]:
    """Largest relative difference of mean squares (of each tensor's largest) and of counts."""
    mine, peer = (read_imatrix(folder / f"{name}.gguf").entries for name in ("ours", "theirs"))
    if mine.keys() != peer.keys():
        sys.exit(f"other tensors: {sorted(mine.keys() ^ peer.keys())}")
    pairs = [(mine[name], peer[name]) for name in mine]
    means = max(np.abs(a.importance() - b.importance()).max() / b.importance().max() for a, b in pairs)
    counts = max((np.abs(a.counts - b.counts) / np.maximum(b.counts, 1)).max() for a, b in pairs)
    return float(means), float(counts)


def main() -> None:
    options_ = parser(__doc__, "llama-imatrix")
    options_.add_argument("--type", type=arguments.mixture, default="BF16")
    options_.add_argument("--chunks", type=arguments.count, default=400)
    options_.add_argument("--wide", action="store_true")
    options = options_.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = (wide_model if options.wide else shipped_model)(Path(folder) / "model.gguf", options.type)
        runs = in_turns(options.rounds, partial(ours, model, options), partial(theirs, model, options))
        report(runs, differences(Path(folder)), options)


def report(runs: list[tuple[Measured, ...]], apart: tuple[float, float], options: argparse.Namespace) -> None:
    name = f"{'wide' if options.wide else 'tiny-mixtral'} {options.type}"
    print(f"{name}, {options.chunks} chunks of {N_CTX}, {options.threads} threads, {len(runs)} rounds in turns")
    print(f"differences: mean squares {apart[0]:.1e}, counts {apart[1]:.1e}")
    print(f"{'':22}{'ggufkit':>10}{'llama-imatrix':>15}{'peer / ours':>13}")
    for label, field, unit in (("whole command, s", "seconds", 1), ("processor, s", "processor", 1),
                               ("peak memory, MiB", "peak", 1 << 20)):  # fmt: skip
        a, b = (statistics.median(getattr(pair[side], field) for pair in runs) / unit for side in (0, 1))
        ratio = statistics.median(getattr(pair[1], field) / getattr(pair[0], field) for pair in runs)
        print(f"{label:22}{a:>10.2f}{b:>15.2f}{ratio:>13.2f}")


if __name__ == "__main__":
    arguments.run(main)
