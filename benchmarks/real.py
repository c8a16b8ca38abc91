"""Real models beside llama.cpp's own tools, in turns, in one run: time, memory, disk traffic, tokens a second.

Run it: python benchmarks/real.py [MODEL …] [--parts convert,calibrate,perplexity,generate] [--rounds 3] [--again]

convert     folder -> Q4_K_M in one pass, beside llama.cpp's converter (REFERENCE_PYTHON names a Python with torch and
            transformers; without it our own 16-bit file is its first step, and the row says so) and llama-quantize
calibrate   importance from the shipped text, beside llama-imatrix on the same tokens
perplexity  of the Q4_K_M file, beside llama-perplexity on the same chunks
generate    128 tokens with the Q4_K_M file, beside llama-bench

Models are fetched (benchmarks/models), the peer's tools are built (benchmarks/peer.py). A part of a model that is in
benchmarks/history/ is not run again without --again, so an interrupted run goes on where it ended. What moved by more
than its noise since the last result is printed. Divergence at equal bytes is benchmarks/fidelity.py's.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import history
import peer
from history import Row
from side_by_side import GGUFKIT, TEXTS, Measured, in_turns, measured

import models

N_TOKENS = {"smollm2": 51_200, "qwen2.5-coder": 10_240, "smollm2-moe": 10_240}  # a minute or three each
N_CHUNKS = {"smollm2": 40, "qwen2.5-coder": 8, "smollm2-moe": 20}
MIB = float(1 << 20)


class Bench:
    """One model: its folder, a place to work, and the files that parts share."""

    def __init__(self, name: str, threads: int, rounds: int) -> None:
        self.name, self.threads, self.rounds = name, threads, rounds
        self.folder, self.work = models.folder(name), models.home() / "work" / name
        self.work.mkdir(parents=True, exist_ok=True)

    def made(self, type_name: str) -> Path:
        """The model in one of llama.cpp's types, made where it is missing."""
        path = self.work / f"{type_name}.gguf"
        if not path.exists():
            measured([*GGUFKIT, "quantize", str(self.folder), "-o", str(path), "--type", type_name, "--restart"])
        return path

    def rows(
        self, part: str, ours: Callable[[], Measured], theirs: Callable[[], Measured], *figures: str, **said: str
    ) -> list[Row]:
        """Both programs in turns; `figures` of FIGURES."""
        runs = in_turns(self.rounds, ours, theirs)
        out = []
        for figure in figures:
            unit, scale, field = FIGURES[figure]
            mine, his = ([getattr(run[side], field) / scale for run in runs] for side in (0, 1))
            out.append(Row(part, self.name, figure, unit, "less", mine, his, **said))
        return out


FIGURES = {
    "wall": ("s", 1.0, "seconds"),
    "peak memory": ("MiB", MIB, "peak"),
    "read": ("MiB", MIB, "read"),
    "written": ("MiB", MIB, "written"),
}


def convert(bench: Bench) -> list[Row]:
    out, middle, theirs = (str(bench.work / f"{name}.gguf") for name in ("ours", "middle", "theirs"))
    one = [*GGUFKIT, "quantize", str(bench.folder), "-o", out, "--type", "Q4_K_M", "--force", "--restart"]
    one += ["--threads", str(bench.threads)]
    own = peer.converter()
    stands_in = [*GGUFKIT, "quantize", str(bench.folder), "-o", middle, "--type", "BF16", "--force", "--restart"]
    first = [*own, str(bench.folder), "--outfile", middle, "--outtype", "bf16"] if own else stands_in
    second = [str(peer.tool("llama-quantize")), middle, theirs, "Q4_K_M", str(bench.threads)]

    def two_steps() -> Measured:
        a, b = measured(first), measured(second)
        read = a.read + b.read + Path(middle).stat().st_size  # llama-quantize maps its source
        return Measured(
            "", "", a.seconds + b.seconds, a.processor + b.processor, max(a.peak, b.peak), read, a.written + b.written
        )

    rows = bench.rows(
        "convert", lambda: measured(one), two_steps, *FIGURES,
        command="ggufkit quantize FOLDER -o OUT --type Q4_K_M",
        peer_command=f"{'convert_hf_to_gguf.py' if own else 'ggufkit quantize --type BF16'}, then llama-quantize",
        note="" if own else "the peer's converter needs PyTorch and was not run; our own 16-bit file is its first step",
    )  # fmt: skip
    sizes = [float(Path(path).stat().st_size) / MIB for path in (out, theirs)]
    same = Row(
        "convert", bench.name, "file", "MiB", "less", [sizes[0]], [sizes[1]], rows[0].command, rows[0].peer_command
    )
    for path in (out, middle, theirs):
        Path(path).unlink()
    return [*rows, same]


def calibrate(bench: Bench) -> list[Row]:
    source, n_chunk, text = bench.made("BF16"), N_TOKENS[bench.name] // 512, str(TEXTS / "calibration.txt")
    ours, theirs = str(bench.work / "ours.imatrix"), str(bench.work / "theirs.imatrix")
    one = [*GGUFKIT, "calibrate", str(source), "-o", ours, "--force", "--text", text, "--threads", str(bench.threads)]
    one += ["--tokens", str(n_chunk * 512)]
    two = [str(peer.tool("llama-imatrix")), "-m", str(source), "-o", theirs, "-f", text, "-c", "512"]
    two += ["--chunks", str(n_chunk), "-t", str(bench.threads), "--no-ppl"]
    said = {"command": f"ggufkit calibrate BF16.gguf --tokens {n_chunk * 512}",
            "peer_command": f"llama-imatrix -c 512 --chunks {n_chunk} --no-ppl"}  # fmt: skip
    return bench.rows("calibrate", lambda: measured(one), lambda: measured(two), "wall", "peak memory", **said)


def perplexity(bench: Bench) -> list[Row]:
    file, n_chunk, text = str(bench.made("Q4_K_M")), str(N_CHUNKS[bench.name]), str(TEXTS / "evaluation-prose.txt")
    one = [*GGUFKIT, "perplexity", file, "--text", text, "--chunks", n_chunk, "--threads", str(bench.threads)]
    two = [str(peer.tool("llama-perplexity")), "-m", file, "-f", text, "-c", "512", "--chunks", n_chunk]
    two += ["-t", str(bench.threads)]
    said = {"command": f"ggufkit perplexity Q4_K_M.gguf --chunks {n_chunk}",
            "peer_command": f"llama-perplexity -c 512 --chunks {n_chunk}"}  # fmt: skip
    return bench.rows("perplexity", lambda: measured(one), lambda: measured(two), "wall", "peak memory", **said)


def generate(bench: Bench) -> list[Row]:
    file, threads = str(bench.made("Q4_K_M")), str(bench.threads)
    one = [
        *GGUFKIT,
        "run",
        file,
        "--raw",
        "-p",
        "Once upon a time",
        "-n",
        "128",
        "--temp",
        "0",
        "--json",
        "-t",
        threads,
    ]
    two = [str(peer.tool("llama-bench")), "-m", file, "-p", "0", "-n", "128", "-r", "1", "-t", threads, "-o", "json"]

    def ours() -> float:
        report = json.loads(measured(one).out)
        return float(report["generated_per_second"])

    def theirs() -> float:
        return float(json.loads(measured(two).out)[0]["avg_ts"])

    runs = in_turns(bench.rounds, ours, theirs)
    return [Row("generate", bench.name, "speed", "tokens/s", "more", [a for a, _ in runs], [b for _, b in runs],
                "ggufkit run Q4_K_M.gguf --raw -n 128 --temp 0", "llama-bench -p 0 -n 128")]  # fmt: skip


PARTS = {"convert": convert, "calibrate": calibrate, "perplexity": perplexity, "generate": generate}


def wanted(options: argparse.Namespace, known: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for name in options.models or models.NAMES:
        for part in options.parts:
            if options.again or (part, name) not in known:
                yield part, name


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", type=arguments.real_model)
    parser.add_argument("--parts", type=arguments.listed(arguments.one_of("part", PARTS)), default=",".join(PARTS))
    parser.add_argument("--rounds", type=arguments.count, default=3)
    parser.add_argument("--again", action="store_true", help="also what is there already")
    options = parser.parse_args()
    kind = history.machine()
    file = history.path(kind)
    for part, name in wanted(options, {(row.part, row.model) for row in history.read(file)}):
        print(f"{name}: {part}", file=sys.stderr, flush=True)
        rows = PARTS[part](Bench(name, kind["threads"], options.rounds))
        old = {row.key: row for row in history.keep(file, kind, rows)}
        lines = (history.moved(old[row.key], row) for row in rows if row.key in old)
        for line in filter(None, lines):
            print(f"moved: {line}", flush=True)
    report(history.read(file))


def report(rows: list[Row]) -> None:
    from statistics import median

    print(f"{'model':16}{'part':12}{'figure':14}{'ggufkit':>12}{'peer':>12}  {'unit':10}{'times better':>13}")
    for row in rows:
        his = f"{median(row.peer):.1f}" if row.peer else ""
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        print(f"{row.model:16}{row.part:12}{row.figure:14}{median(row.ours):>12.1f}{his:>12}  {row.unit:10}{ratio:>13}")


if __name__ == "__main__":
    arguments.run(main)
