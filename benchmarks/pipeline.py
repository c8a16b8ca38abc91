"""One pass against two steps: safetensors to Q4_K_M with importance, in one run, on Mixtral's shapes.

ours    ggufkit quantize SOURCE -o OUT --imatrix …
peer    a 16-bit GGUF first (made by ggufkit too, which favours the peer: its own converter needs PyTorch), then
        llama_model_quantize with the same importance and threads

Each runs in a process of its own. Printed: wall seconds, peak resident memory (VmHWM), bytes read and written through
the kernel (rchar and wchar of /proc/self/io; what the peer reads through mmap is added as the size of the file).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

CHILD = """
import json, sys, time
sys.path[:0] = [{root!r}, {here!r}]
from pipeline import {step}
started = time.perf_counter()
{step}(*{args!r})
seconds = time.perf_counter() - started
io = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines() if ":" in line)
print(json.dumps(dict(seconds=seconds, peak=int(status["VmHWM"].split()[0]) * 1024,
                      read=int(io["rchar"]), written=int(io["wchar"]))))
"""


def ours(source: str, imatrix: str, output: str, threads: int, encoder: str, max_memory: int) -> None:
    import quant
    from ggufkit.encoding.settings import QuantizeSettings
    from ggufkit.workflows.quantize import quantize

    quantize(QuantizeSettings(
        source=Path(source), output=Path(output), recipe="Q4_K_M", imatrix=Path(imatrix),
        threads=threads, encoder=quant.Encoder(encoder), max_memory=max_memory, force=True,
    ))  # fmt: skip


def convert(source: str, output: str, threads: int, max_memory: int) -> None:
    from ggufkit.encoding.settings import QuantizeSettings
    from ggufkit.workflows.quantize import quantize

    quantize(QuantizeSettings(source=Path(source), output=Path(output), recipe="F16", threads=threads,
                              max_memory=max_memory, force=True))  # fmt: skip


def peer(f16: str, imatrix: str, output: str, threads: int) -> None:
    from ggufkit.formats.imatrix_file import read_imatrix
    from tests.oracle import llama_quantize

    entries = read_imatrix(Path(imatrix)).entries
    llama_quantize(Path(f16), Path(output), 15, imatrix={k: e.importance() for k, e in entries.items()},
                   threads=threads)  # fmt: skip


def child(step: str, *args: object) -> dict[str, float]:
    code = CHILD.format(root=str(ROOT), here=str(ROOT / "benchmarks"), step=step, args=args)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if shown.returncode:
        sys.exit(f"{step} failed:\n{shown.stderr[-2000:]}")
    return dict(json.loads(shown.stdout.splitlines()[-1]))


def both(source: str, work: Path, imatrix: str, options: argparse.Namespace) -> tuple[dict, dict]:
    """Figures of ours and of the peer's two steps together."""
    threads, cap = options.threads, options.max_memory
    one = child("ours", source, imatrix, str(work / "ours.gguf"), threads, options.encoder, cap)
    first = child("convert", source, str(work / "f16.gguf"), threads, cap)
    second = child("peer", str(work / "f16.gguf"), imatrix, str(work / "peer.gguf"), threads)
    second["read"] += (work / "f16.gguf").stat().st_size  # mapped
    two = {key: first[key] + second[key] for key in ("seconds", "read", "written")}
    return one, two | {"peak": max(first["peak"], second["peak"]), "quantize_seconds": second["seconds"]}


def main() -> None:
    import arguments  # not in the processes that are measured

    parser = arguments.parser(__doc__)
    parser.add_argument("--layers", type=arguments.count, default=1)
    parser.add_argument("--n-embd", type=arguments.count, default=4096)
    parser.add_argument("--n-ff", type=arguments.count, default=14336)
    parser.add_argument("--runs", type=arguments.count, default=3)
    parser.add_argument("--threads", type=arguments.count, default=2)
    parser.add_argument("--encoder", default="ggufkit", choices=["ggufkit", "ggml"])
    parser.add_argument("--max-memory", type=arguments.count, default=2 << 30)
    parser.add_argument("--folder", default=None, help="where to work; about 10 GiB a layer are needed")
    options = parser.parse_args()
    from mixtral_shape import make, make_imatrix

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        work = Path(folder)
        print(
            f"making a checkpoint: {options.layers} layer(s), {options.n_embd} x {options.n_ff}, 8 experts", flush=True
        )
        source = make(work / "source", n_layer=options.layers, n_embd=options.n_embd, n_ff=options.n_ff)
        imatrix = make_imatrix(work / "imatrix.gguf", source)
        rows = []
        for number in range(options.runs):
            started = time.perf_counter()
            rows.append(both(str(source), work, str(imatrix), options))
            print(f"run {number + 1}: {time.perf_counter() - started:.0f} s", flush=True)
        report(rows, work, options)


def report(rows: list[tuple[dict, dict]], work: Path, options: argparse.Namespace) -> None:
    same = (work / "ours.gguf").stat().st_size, (work / "peer.gguf").stat().st_size
    print(f"\nmedians of {options.runs} runs, {options.threads} threads; files {same[0]} and {same[1]} bytes")
    print(f"{'':28}{'one pass':>12}{'two steps':>12}{'ratio':>8}")
    for key, label, unit in (
        ("seconds", "wall, s", 1), ("peak", "peak resident, MiB", 1 << 20),
        ("read", "read, GiB", 1 << 30), ("written", "written, GiB", 1 << 30),
    ):  # fmt: skip
        mine = statistics.median(row[0][key] for row in rows) / unit
        theirs = statistics.median(row[1][key] for row in rows) / unit
        ratio = statistics.median(row[1][key] / row[0][key] for row in rows)
        print(f"{label:28}{mine:12.2f}{theirs:12.2f}{ratio:8.2f}")
    quantize_only = statistics.median(row[1]["quantize_seconds"] for row in rows)
    print(f"of the two steps, llama_model_quantize alone took {quantize_only:.1f} s")


if __name__ == "__main__":
    from arguments import run

    run(main)
