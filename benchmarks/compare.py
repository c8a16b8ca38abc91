"""KL divergence of two files on one text: `ggufkit compare` in one step beside llama-perplexity's two, in turns.

Run it: python benchmarks/compare.py [--peer PATH] [--type Q4_K_M] [--chunks 60] [--threads 2] [--rounds 5]
The peer is looked for on PATH, or under LLAMA_PERPLEXITY. Prints both figures; medians of whole seconds, of processor
seconds and of peak memory; what is stored on the way; and what `ggufkit baseline` stores instead.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
from side_by_side import GGUFKIT, TEXTS, in_turns, measured, parser, shipped_model


class Run(NamedTuple):
    """What one program did; peak of resident bytes."""

    kld: float
    seconds: float
    processor: float
    peak: int
    stored: int


def ours(base: Path, candidate: Path, options: argparse.Namespace) -> Run:
    done = measured([*GGUFKIT, "compare", str(base), str(candidate), "--json", *_limits(options)])
    kld = json.loads(done.out)["figures"]["kld_mean"]["value"]
    return Run(kld, done.seconds, done.processor, done.peak, 0)


def theirs(base: Path, candidate: Path, options: argparse.Namespace) -> Run:
    logits = base.with_name("logits.kld")
    common = [*_limits(options), "-c", "512", "--kl-divergence-base", str(logits)]
    first = measured([options.peer, "-m", str(base), "-f", str(TEXTS / "evaluation-prose.txt"), *common])
    for _ in range(3):  # its log sometimes loses the last lines
        second = measured([options.peer, "-m", str(candidate), "--kl-divergence", *common])
        found = re.search(r"Mean\s+KLD:\s+([\d.]+)", second.out)
        if found:
            break
    else:
        sys.exit(f"{options.peer} printed no mean KLD")
    seconds, processor = first.seconds + second.seconds, first.processor + second.processor
    return Run(float(found[1]), seconds, processor, max(first.peak, second.peak), logits.stat().st_size)


def _limits(options: argparse.Namespace) -> list[str]:
    return ["--chunks", str(options.chunks), "--threads", str(options.threads)]


def baseline_nbytes(base: Path, options: argparse.Namespace) -> int:
    output = base.with_name("base.gkb")
    measured([*GGUFKIT, "baseline", str(base), "-o", str(output), *_limits(options)])
    return output.stat().st_size


def main() -> None:
    options_ = parser(__doc__, "llama-perplexity")
    options_.add_argument("--type", type=arguments.mixture, default="Q4_K_M")
    options_.add_argument("--chunks", type=arguments.count, default=60)
    options = options_.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base, candidate = (shipped_model(Path(folder) / f"{name}.gguf", name) for name in ("BF16", options.type))
        runs = in_turns(options.rounds, *(partial(program, base, candidate, options) for program in (ours, theirs)))
        show(runs, baseline_nbytes(base, options), options)


def show(runs: list[tuple[Run, ...]], kept: int, options: argparse.Namespace) -> None:
    mine, peer = (
        Run(*(statistics.median(column) for column in zip(*side, strict=True))) for side in zip(*runs, strict=True)
    )
    print(f"{options.type} against BF16, {options.chunks} chunks of 512, {options.threads} threads, "
          f"medians of {len(runs)} rounds in turns")  # fmt: skip
    print(f"{'':28} {'ggufkit':>12} {'llama.cpp':>12}")
    print(f"{'mean KL divergence':28} {mine.kld:12.6f} {peer.kld:12.6f}")
    print(f"{'seconds':28} {mine.seconds:12.2f} {peer.seconds:12.2f}   ratio {peer.seconds / mine.seconds:.2f}")
    print(f"{'processor seconds':28} {mine.processor:12.2f} {peer.processor:12.2f}   "
          f"ratio {peer.processor / mine.processor:.2f}")  # fmt: skip
    print(f"{'peak memory, MiB':28} {mine.peak / 2**20:12.0f} {peer.peak / 2**20:12.0f}")
    print(f"{'stored on the way, bytes':28} {mine.stored:12d} {peer.stored:12d}")
    print(f"{'baseline file, bytes':28} {kept:12d} {peer.stored:12d}   {peer.stored / kept:.1f} times smaller")


if __name__ == "__main__":
    arguments.run(main)
