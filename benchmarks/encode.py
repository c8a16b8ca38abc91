"""Our encoders beside llama.cpp's (`ggml_quantize_chunk`), in turns, in one process, on the same weights.

Run it: python benchmarks/encode.py [--types Q4_K,Q6_K] [--rounds 7] [--rows 64] [--no-compile]
Speeds are million weights a second of one core, from the processor time of the calling thread, so that other work on
the machine counts for neither: medians of the rounds. `error` is the importance-weighted squared error of ours over
theirs. Weights have tails (Student t, 5 degrees of freedom), rows have 4,096 columns, importance is log-normal.
Both are kept in benchmarks/history/. Compiling is not part of the speeds; it is measured apart, by processes with an
empty and with a warm cache.
"""

import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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


def all_cores(name: str, n_rows: int, rounds: int) -> None:
    """Each thread has several slabs of some milliseconds, as in a tensor of a large model."""
    qtype = quant_type(name)
    w, importance = weights(n_rows)
    out = np.empty((n_rows, qtype.row_nbytes(N_PER_ROW)), np.uint8)
    n_cores = os.cpu_count() or 1
    slabs = list(zip(np.array_split(w, 8 * n_cores), np.array_split(out, 8 * n_cores), strict=True))
    print(f"\n{name} with importance, wall time, slabs of {len(slabs[0][0])} rows from 1 and from {n_cores} threads")
    for who, encode in zip(("ours", "llama.cpp"), encoders(qtype), strict=True):

        def run(pool: ThreadPoolExecutor, encode: Kernel = encode) -> None:
            list(pool.map(lambda slab: encode(slab[0], importance, slab[1]), slabs))

        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(n_cores) as many:
            slow, fast = in_turns([lambda: run(one), lambda: run(many)], rounds, time.perf_counter)
        print(f"{who:10s}{w.size / slow / 1e6:8.1f} → {w.size / fast / 1e6:8.1f} Mweights/s: {slow / fast:.2f} times")


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
    options = parser.parse_args()
    names = options.types
    kind = history.machine()
    history.keep(history.path(kind), kind, one_core(names, options.rows, options.rounds))
    all_cores("Q4_K", 16 * options.rows, min(options.rounds, 3))
    if not options.no_compile:
        first_calls(names)


if __name__ == "__main__":
    arguments.run(main)
