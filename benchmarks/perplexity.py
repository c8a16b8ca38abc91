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
import re
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
from side_by_side import GGUFKIT, TEXTS, in_turns, measured, parser, shipped_model, wide_model

TEXT = TEXTS / "evaluation-prose.txt"


class Run(NamedTuple):
    """What one program did."""

    ppl: float
    evaluation: float
    whole: float
    processor: float


def ours(model: Path, options: argparse.Namespace) -> Run:
    command = [*GGUFKIT, "perplexity", str(model), "--text", str(TEXT), "--json"]
    done = measured([*command, "--chunks", str(options.chunks), "--threads", str(options.threads)])
    report = json.loads(done.out)
    return Run(report["ppl"], report["seconds"], done.seconds, done.processor)


def theirs(model: Path, options: argparse.Namespace) -> Run:
    command = [options.peer, "-m", str(model), "-f", str(TEXT), "-c", "512", "-t", str(options.threads)]
    command += ["--chunks", str(options.chunks), "--log-timestamps", "--log-prefix"]
    for _ in range(3):  # its log sometimes loses the last line
        done = measured(command, together=True)
        ppl = re.search(r"Final estimate: PPL = ([\d.]+)", done.out)
        if ppl:
            begun, ended = (_stamp(done.out, mark) for mark in ("calculating perplexity over", "Final estimate"))
            return Run(float(ppl[1]), ended - begun, done.seconds, done.processor)
    sys.exit(f"{options.peer} printed no final estimate:\n{done.out[-2000:]}")


def _stamp(log: str, mark: str) -> float:
    """Seconds of the time stamp (minutes.seconds.ms.us) of the line that holds `mark`."""
    found = re.search(rf"(\d+)\.(\d+)\.(\d+)\.(\d+) .*{mark}", log)
    if found is None:
        sys.exit(f"no time stamp before {mark!r} in the peer's log")
    minutes, seconds, ms, us = (int(part) for part in found.groups())
    return 60 * minutes + seconds + ms / 1e3 + us / 1e6


def main() -> None:
    options_ = parser(__doc__, "llama-perplexity")
    options_.add_argument("--type", type=arguments.mixture, default="Q4_K_M")
    options_.add_argument("--chunks", type=arguments.count, default=60)
    what = options_.add_mutually_exclusive_group()
    what.add_argument("--model", type=arguments.file, help="a GGUF; default: the shipped model in --type")
    what.add_argument("--wide", action="store_true", help="one layer of Mixtral's shapes in --type")
    options = options_.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make = wide_model if options.wide else shipped_model
        model = options.model or make(Path(folder) / "model.gguf", options.type)
        report(in_turns(options.rounds, partial(ours, model, options), partial(theirs, model, options)), options)


def report(runs: list[tuple[Run, ...]], options: argparse.Namespace) -> None:
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
    arguments.run(main)
