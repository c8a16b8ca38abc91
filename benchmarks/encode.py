"""Our encoders beside llama.cpp's (`ggml_quantize_chunk`), in turns, in one process, on the same weights.

Run it: python benchmarks/encode.py [--types Q4_K,Q6_K] [--rounds 7] [--rows 64] [--threads 1,2] [--no-compile]
Speeds are million weights a second of one core, from the processor time of the calling thread, so that other work on
the machine counts for neither: medians of the rounds. `error` is the importance-weighted squared error of ours over
theirs. Weights have tails (Student t, 5 degrees of freedom), rows have 4,096 columns, importance is log-normal.
Both are kept in benchmarks/history/. Compiling is not part of the speeds; it is measured apart, by processes with an
empty and with a warm cache. Several threads are measured by wall time, in turns; --no-cores measures nothing else, for
all of the types, and keeps nothing.
"""

import functools
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import arguments
import history
import numpy as np
from history import Row

from quant import QuantType, _ggml, dequantize, quant_type
from quant.kernels import KERNELS, Kernel

ROOT = Path(__file__).parents[1]
N_PER_ROW = 4096
SLAB_ROWS = 64
MODEL = "generated weights"
FIRST_CALLS = """
import sys, time
start = time.perf_counter()
import numpy as np
from quant import quant_type, quantize
w, importance = np.ones((1, 512), np.float32), np.ones(512, np.float32)
print(f"{'import quant':12s} {time.perf_counter() - start:6.2f} s")
for name in sys.argv[1:]:
    start = time.perf_counter()
    quantize(w, quant_type(name))
    quantize(w, quant_type(name), importance=importance)
    print(f"{name:12s} {time.perf_counter() - start:6.2f} s", flush=True)
"""


def weights(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    w = (rng.standard_t(5, size=(n_rows, N_PER_ROW)) * 0.02).astype(np.float32)
    return w, np.exp(rng.normal(size=N_PER_ROW)).astype(np.float32)


def in_turns(calls: list[Callable[[], object]], rounds: int, clock: Callable[[], float]) -> list[float]:
    """Median seconds of each call."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, kept in zip(calls, seconds, strict=True):
            start = clock()
            call()
            kept.append(clock() - start)
    return [statistics.median(kept) for kept in seconds]


def error(w: np.ndarray, blocks: np.ndarray, qtype: QuantType, importance: np.ndarray | None) -> float:
    miss = (w.astype(np.float64) - dequantize(blocks, qtype)) ** 2
    return float(miss.sum() if importance is None else (miss * importance).sum())


def encoders(qtype: QuantType) -> tuple[Kernel, Kernel]:
    """Ours and llama.cpp's, called alike."""
    return KERNELS[qtype.name], functools.partial(_ggml.quantize_chunk, qtype.ggml_type)


def one_core(names: list[str], n_rows: int, rounds: int) -> list[Row]:
    w, column_importance = weights(n_rows)
    rows = []
    print("one core                Mweights/s          times    error")
    print("type    importance    ours    llama.cpp     as fast  ours / theirs")
    for qtype in map(quant_type, names):
        for importance in (column_importance, None):
            rows += compare(qtype, w, importance, rounds)
    return rows


def compare(qtype: QuantType, w: np.ndarray, importance: np.ndarray | None, rounds: int) -> list[Row]:
    """Speed and error of one type: printed, and as rows to keep."""
    n_rows = len(w)
    n_rows_of_theirs = max(n_rows // 4, 1)  # llama.cpp's searches are slow
    blocks = [np.empty((n, qtype.row_nbytes(N_PER_ROW)), np.uint8) for n in (n_rows, n_rows_of_theirs)]
    calls = [
        functools.partial(encode, w[: len(out)], importance, out)
        for encode, out in zip(encoders(qtype), blocks, strict=True)
    ]
    for call in calls:
        call()
    seconds = in_turns(calls, rounds, time.thread_time)
    speed, speed_of_theirs = (out.shape[0] * N_PER_ROW / s / 1e6 for out, s in zip(blocks, seconds, strict=True))
    ours, theirs = (error(w[:n_rows_of_theirs], out[:n_rows_of_theirs], qtype, importance) for out in blocks)
    kind = "no" if importance is None else "yes"
    columns = f"{speed:8.1f}{speed_of_theirs:13.1f}{speed / speed_of_theirs:12.1f}{ours / theirs:12.4f}"
    print(f"{qtype.name:8s}{kind:10s}{columns}", flush=True)
    figure = f"{qtype.name}, {'without' if importance is None else 'with'} importance"
    said = "benchmarks/encode.py", "ggml_quantize_chunk"
    return [
        Row("encode", MODEL, figure, "Mweights/s", "more", [speed], [speed_of_theirs], *said),
        Row("encode", MODEL, f"{figure}, squared error", "", "less", [ours], [theirs], *said),
    ]


def several_threads(name: str, threads: list[int], rounds: int) -> None:
    """Slabs take some milliseconds, as in a tensor of a large model, and each thread has sixteen of them or more."""
    qtype = quant_type(name)
    w, importance = weights(SLAB_ROWS * 16 * max(threads))
    out = np.empty((len(w), qtype.row_nbytes(N_PER_ROW)), np.uint8)
    slabs = [(w[at : at + SLAB_ROWS], out[at : at + SLAB_ROWS]) for at in range(0, len(w), SLAB_ROWS)]

    def encoding(pool: ThreadPoolExecutor, encode: Kernel, step: int) -> Callable[[], object]:
        return lambda: list(pool.map(lambda slab: encode(slab[0], importance, slab[1]), slabs[::step]))

    print(f"\n{name} with importance, wall time, {len(slabs)} slabs of {SLAB_ROWS} rows")
    print("threads   Mweights/s: ours    times one    llama.cpp    times one    times as fast")
    with ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(n)) for n in threads]
        steps = zip(encoders(qtype), (1, 4), strict=True)  # llama.cpp's searches are slow
        calls = [encoding(pool, encode, step) for encode, step in steps for pool in pools]
        calls[0]()  # compiles
        seconds = in_turns(calls, rounds, time.perf_counter)
    ours, theirs = seconds[: len(threads)], [4 * one for one in seconds[len(threads) :]]
    for n, a, b in zip(threads, ours, theirs, strict=True):
        print(f"{n:7}{w.size / a / 1e6:19.1f}{ours[0] / a:13.2f}{w.size / b / 1e6:13.1f}{theirs[0] / b:13.2f}"
              f"{b / a:17.2f}", flush=True)  # fmt: skip


def doublings(most: int) -> list[int]:
    """1, 2, 4, …, `most`."""
    return [*itertools.takewhile(lambda n: n < most, (1 << i for i in itertools.count())), most]


def first_calls(names: list[str]) -> None:
    """Seconds until a process has its first answer of every type, compiling everything, then from the cache."""
    with tempfile.TemporaryDirectory() as cache:
        for title in ("empty cache (everything is compiled)", "warm cache"):
            print(f"\nfirst calls, {title}")
            env = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
            subprocess.run([sys.executable, "-c", FIRST_CALLS, *names], env=env, check=True)


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument(
        "--types", type=arguments.listed(arguments.one_of("encoder", KERNELS)), default=",".join(KERNELS)
    )
    parser.add_argument("--rounds", type=arguments.count, default=7)
    parser.add_argument("--rows", type=arguments.count, default=64)
    parser.add_argument("--no-compile", action="store_true", help="leave out what compiling takes")
    parser.add_argument("--threads", type=arguments.listed(arguments.count), default=doublings(os.cpu_count() or 1))
    parser.add_argument("--no-cores", action="store_true", help="threads alone, of all --types; nothing is kept")
    options = parser.parse_args()
    names = options.types
    if not options.no_cores:
        kind = history.machine()
        history.keep(history.path(kind), kind, one_core(names, options.rows, options.rounds))
    for name in names if options.no_cores else ["Q4_K"]:
        several_threads(name, options.threads, min(options.rounds, 3))
    if not options.no_compile:
        first_calls(names)


if __name__ == "__main__":
    arguments.run(main)
