"""KL divergence of two files on one text: `ggufkit compare` in one step beside llama-perplexity's two, in turns.

Run it: python benchmarks/compare.py [--peer PATH] [--type Q4_K_M] [--chunks 60] [--threads 2] [--rounds 5]
The peer is looked for on PATH, or under LLAMA_PERPLEXITY. Prints both figures; medians of whole seconds, of processor
seconds and of peak memory; what is stored on the way; and what `ggufkit baseline` stores instead.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import quant
from ggufkit.runtime import machine
from ggufkit.workflows.quantize import QuantizeSettings, quantize

ROOT = Path(__file__).resolve().parents[1]
TEXT = ROOT / "ggufkit" / "data" / "text" / "evaluation-prose.txt"


class Run(NamedTuple):
    """What one program did; peak of resident bytes."""

    kld: float
    seconds: float
    processor: float
    peak: int
    stored: int


def measured(command: list[str]) -> tuple[str, float, float, int]:
    """Output, seconds, processor seconds and peak resident bytes of a command."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}")
        out.seek(0)
        unit = 1 if sys.platform == "darwin" else 1024
        return out.read(), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit


def ours(base: Path, candidate: Path, options: argparse.Namespace) -> Run:
    command = [sys.executable, "-m", "ggufkit", "compare", str(base), str(candidate), "--json"]
    command += ["--chunks", str(options.chunks), "--threads", str(options.threads)]
    out, seconds, processor, peak = measured(command)
    return Run(json.loads(out)["figures"]["kld_mean"]["value"], seconds, processor, peak, 0)


def theirs(base: Path, candidate: Path, options: argparse.Namespace) -> Run:
    logits = base.with_name("logits.kld")
    common = ["-c", "512", "-t", str(options.threads), "--kl-divergence-base", str(logits)]
    first = measured([options.peer, "-m", str(base), "-f", str(TEXT), "--chunks", str(options.chunks), *common])
    second = measured([options.peer, "-m", str(candidate), "--kl-divergence", *common])
    found = re.search(r"Mean\s+KLD:\s+([\d.]+)", second[0])
    if found is None:
        sys.exit(f"{options.peer} printed no mean KLD")
    peak = max(first[3], second[3])
    return Run(float(found[1]), first[1] + second[1], first[2] + second[2], peak, logits.stat().st_size)


def baseline_nbytes(base: Path, options: argparse.Namespace) -> int:
    output = base.with_name("base.gkb")
    measured([sys.executable, "-m", "ggufkit", "baseline", str(base), "-o", str(output),
              "--chunks", str(options.chunks), "--threads", str(options.threads)])  # fmt: skip
    return output.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=os.environ.get("LLAMA_PERPLEXITY") or shutil.which("llama-perplexity"))
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--chunks", type=int, default=60)
    parser.add_argument("--threads", type=int, default=machine.choose_threads().n)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not options.peer:
        sys.exit("no llama-perplexity on PATH. Name it with --peer or LLAMA_PERPLEXITY.")
    with tempfile.TemporaryDirectory() as folder:
        base, candidate = (Path(folder) / f"{name}.gguf" for name in ("BF16", options.type))
        for path in (base, candidate):
            source = ROOT / "models" / "tiny-mixtral"
            quantize(QuantizeSettings(source=source, output=path, recipe=path.stem, encoder=quant.Encoder.GGML))
        ours(base, candidate, options)  # compiles kernels, probes the engine
        runs = [(ours(base, candidate, options), theirs(base, candidate, options)) for _ in range(options.rounds)]
        kept = baseline_nbytes(base, options)
    show(runs, kept, options)


def median(runs: tuple[Run, ...]) -> Run:
    return Run(*(statistics.median(column) for column in zip(*runs, strict=True)))


def show(runs: list[tuple[Run, Run]], kept: int, options: argparse.Namespace) -> None:
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
    main()
