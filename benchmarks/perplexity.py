"""Perplexity of one file and one text: `ggufkit perplexity` beside llama-perplexity, in turns.

Run it: python benchmarks/perplexity.py [--peer PATH] [--type Q4_K_M] [--chunks 60] [--threads 2] [--rounds 5]
                                       [--model FILE.gguf | --wide]
The model is the shipped one; --model takes another file, --wide one layer of Mixtral's shapes with 32,000 tokens and
weights of noise, where what the programs cost beside the model weighs as little as it does in practice. The peer is
looked for on PATH, or under LLAMA_PERPLEXITY. Prints both figures, and medians of the seconds that the evaluation
takes (from the first batch on, as each program reports it), of the whole command, and of processor time.
"""

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import mixtral_shape

import quant
from ggufkit.formats.text import shipped_text
from ggufkit.runtime import machine
from ggufkit.workflows.quantize import QuantizeSettings, quantize

ROOT = Path(__file__).parents[1]


class Run(NamedTuple):
    """What one program did."""

    ppl: float
    evaluation: float
    whole: float
    processor: float


def ours(model: Path, text: Path, options: argparse.Namespace) -> Run:
    command = [sys.executable, "-m", "ggufkit", "perplexity", str(model), "--text", str(text), "--json"]
    command += ["--chunks", str(options.chunks), "--threads", str(options.threads)]
    out, whole, processor = timed(command)
    report = json.loads(out[out.index("{") :])
    return Run(report["ppl"], report["seconds"], whole, processor)


def theirs(model: Path, text: Path, options: argparse.Namespace) -> Run:
    command = [options.peer, "-m", str(model), "-f", str(text), "-c", "512", "-t", str(options.threads)]
    command += ["--chunks", str(options.chunks), "--log-timestamps", "--log-prefix"]
    for _ in range(3):  # its log sometimes loses the last line
        out, whole, processor = timed(command)
        ppl = re.search(r"Final estimate: PPL = ([\d.]+)", out)
        if ppl:
            break
    else:
        sys.exit(f"{options.peer} printed no final estimate:\n{out[-2000:]}")
    begun, ended = (_stamp(out, mark) for mark in ("calculating perplexity over", "Final estimate"))
    return Run(float(ppl[1]), ended - begun, whole, processor)


def timed(command: list[str]) -> tuple[str, float, float]:
    """Output, seconds, and seconds of processor time of a command."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, cwd=ROOT)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _stamp(log: str, mark: str) -> float:
    """Seconds of the time stamp (minutes.seconds.ms.us) of the line that holds `mark`."""
    found = re.search(rf"(\d+)\.(\d+)\.(\d+)\.(\d+) .*{mark}", log)
    if found is None:
        sys.exit(f"no time stamp before {mark!r} in the peer's log")
    minutes, seconds, ms, us = (int(part) for part in found.groups())
    return 60 * minutes + seconds + ms / 1e3 + us / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=os.environ.get("LLAMA_PERPLEXITY") or shutil.which("llama-perplexity"))
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--chunks", type=int, default=60)
    parser.add_argument("--threads", type=int, default=machine.choose_threads().n)
    parser.add_argument("--rounds", type=int, default=5)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", type=Path, help="a GGUF; default: the shipped model in --type")
    what.add_argument("--wide", action="store_true", help="one layer of Mixtral's shapes in --type")
    options = parser.parse_args()
    if not options.peer:
        sys.exit("llama-perplexity is not on PATH. Pass --peer PATH, or set LLAMA_PERPLEXITY.")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(shipped_text("evaluation-prose.txt"))
        model = options.model or quantized(Path(folder), options)
        runs = [(ours(model, text, options), theirs(model, text, options)) for _ in range(options.rounds)]
    report(runs, options)


def quantized(folder: Path, options: argparse.Namespace) -> Path:
    """The shipped model, or one as wide as Mixtral, in the type that is asked for."""
    source, output = ROOT / "models" / "tiny-mixtral", folder / "model.gguf"
    if options.wide:
        source = mixtral_shape.make(folder / "wide")
    encoder = quant.Encoder.GGUFKIT if options.wide else quant.Encoder.GGML
    quantize(QuantizeSettings(source=source, output=output, recipe=options.type, encoder=encoder))
    return output


def report(runs: list[tuple[Run, Run]], options: argparse.Namespace) -> None:
    mine, peer = runs[0][0].ppl, runs[0][1].ppl
    name = options.model.name if options.model else f"{'wide' if options.wide else 'tiny-mixtral'} {options.type}"
    print(f"{name}, {options.chunks} chunks of 512, {options.threads} threads, {len(runs)} rounds")
    print(f"{'':22}{'ggufkit':>10}{'llama-perplexity':>18}{'peer / ours':>13}")
    print(f"{'perplexity':22}{mine:>10.4f}{peer:>18.4f}{peer / mine:>13.6f}")
    for label, field in (("evaluation, s", "evaluation"), ("whole command, s", "whole"), ("processor, s", "processor")):
        a, b = (statistics.median(getattr(pair[side], field) for pair in runs) for side in (0, 1))
        ratio = statistics.median(getattr(pair[1], field) / getattr(pair[0], field) for pair in runs)
        print(f"{label:22}{a:>10.3f}{b:>18.3f}{ratio:>13.2f}")


if __name__ == "__main__":
    main()
