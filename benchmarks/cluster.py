"""Encoding and fitting with threads of one process and with worker processes: time, core seconds, memory, equal bytes.

Run it: python benchmarks/cluster.py [--part encode] [--threads 1] [--workers 1,2,3] [--n-expert 2] [--n-ff 14336]
                                     [--fit-width 1024] [--fit-experts 4] [--tokens 4096]
encode  a layer of Mixtral's shapes (4096 wide) to Q4_K_M, searched without importance
fit     a layer 1024 wide, `--effort balanced`, from evidence that is there: the text is read once, before

The last run is of as many workers as the one before it, and loses one of them in the middle. Threads of this process
get as many cores, workers have one thread each. Start is what comes before the first weight, and with workers the time
until all are there and were looked at; work is from there to the last weight. Core seconds are those spent meanwhile by
the workers, or the threads, and by the command beside its workers. Efficiency: time of one thread / number / time. Busy
is the part of the time that workers computed.
Ends with an error where two files differ. TMPDIR names where all of it is; a folder in memory leaves the disk out.
"""

import argparse
import dataclasses
import hashlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import mixtral_shape

try:
    import psutil
except ImportError:
    sys.exit("cluster.py watches workers with psutil, which comes with Dask: pip install 'ggufkit[cluster]'")

from ggufkit.encoding import job as job_module
from ggufkit.fitting.encoders import Effort
from ggufkit.progress import Progress
from ggufkit.reports.units import human_bytes
from ggufkit.workflows.fit_settings import FitSettings
from ggufkit.workflows.fitted import quantize_fitted
from ggufkit.workflows.quantize import QuantizeSettings, quantize

LOOK_EVERY_S = 0.2


@dataclasses.dataclass
class Watch:
    """A run and its processes: seconds before the work and of it, core seconds, and the most memory of a worker."""

    kill_at: float | None = None
    start: float = 0.0
    worked: float = 0.0
    here: float = 0.0
    there: float = 0.0
    peak: int = 0
    looked: float = 0.0

    def __call__(self, progress: Progress) -> None:
        if time.perf_counter() - self.looked < LOOK_EVERY_S:
            return  # every slab tells of itself, and to look at all processes takes milliseconds
        self.looked = time.perf_counter()
        workers = workers_here()
        self.peak = max([self.peak, *(memory_of(process) for process in workers)])
        if self.kill_at is not None and progress.done > self.kill_at * progress.total and workers:
            workers[0].send_signal(signal.SIGKILL)
            self.kill_at = None

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Whatever is encoded meanwhile counts."""
        began, encode_slabs = time.perf_counter(), job_module.encode_slabs

        def encode(*args: Any, **named: Any) -> None:
            self.start = self.start or time.perf_counter() - began
            started, here, there = time.perf_counter(), time.process_time(), core_seconds()
            encode_slabs(*args, **named)
            self.worked += time.perf_counter() - started
            self.here += time.process_time() - here
            self.there += core_seconds() - there

        with mock.patch.object(job_module, "encode_slabs", encode):
            yield


Work = Callable[[QuantizeSettings, Watch], object]


def workers_here() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(said(p))]


def said(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def memory_of(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def core_seconds() -> float:
    """Of the workers; those of one that was killed are lost."""
    total = 0.0
    for process in workers_here():
        try:
            times = process.cpu_times()
            total += times.user + times.system
        except psutil.Error:
            continue
    return total


@contextmanager
def on_cores(n: int) -> Iterator[None]:
    """Threads that are started meanwhile have so many cores, where the system can see to that; all of them for 0."""
    if not n or not hasattr(os, "sched_setaffinity"):
        yield
        return
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:n])
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


def compare(what: str, settings: QuantizeSettings, work: Work, options: argparse.Namespace) -> None:
    n_weights = weights(settings)
    print(f"\n{what}, {n_weights / 1e6:.0f} million weights")
    print(f"{'':16}{'start, s':>9}{'work, s':>9}{'core s':>9}{'and here':>10}{'Mweights/s':>12}{'efficiency':>12}"
          f"{'busy':>7}{'a worker':>11}", flush=True)  # fmt: skip
    work(settings, Watch())  # reads the text, and compiles what is not compiled yet
    one, digests = 0.0, set()
    most = options.workers[-1]
    runs = [(f"{n} thread{'s' * (n > 1)} here", n, 0, None) for n in options.threads]
    runs += [(f"{n} worker{'s' * (n > 1)}", 0, n, None) for n in options.workers]
    runs += [(f"{most}, one killed", 0, most, 0.4)]
    for label, threads, workers, kill_at in runs:
        watch = Watch(kill_at)
        job = dataclasses.replace(settings, workers=workers, threads=threads, force=True)
        with on_cores(threads), watch.looking():
            work(job, watch)
        digests.add(hashlib.sha256(job.output.read_bytes()).hexdigest())
        one = one or watch.worked
        n = threads or workers
        core, here = (watch.there, f"{watch.here:.1f}") if workers else (watch.here, "")
        efficiency, busy = one / n / watch.worked, core / n / watch.worked
        spent = f"{core:9.1f}{here:>10}{n_weights / 1e6 / watch.worked:12.1f}{efficiency:12.2f}{busy:7.2f}"
        spent = spent if kill_at is None else " " * 50
        peak = human_bytes(watch.peak) if workers else ""
        print(f"{label:16}{watch.start:9.1f}{watch.worked:9.1f}{spent}{peak:>11}", flush=True)
    print(f"SHA-256 {'the same in all' if len(digests) == 1 else 'DIFFERENT'}: {min(digests)[:16]}", flush=True)
    if len(digests) > 1:
        sys.exit("files differ")


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--threads", type=arguments.listed(arguments.count), default=[1])
    parser.add_argument("--workers", type=arguments.listed(arguments.count), default=[1, 2, 3])
    parser.add_argument("--n-expert", type=arguments.count, default=2)
    parser.add_argument("--n-ff", type=arguments.count, default=14336)
    parser.add_argument("--fit-width", type=arguments.count, default=1024)
    parser.add_argument("--fit-experts", type=arguments.count, default=4)
    parser.add_argument("--tokens", type=arguments.count, default=4096)
    parser.add_argument("--part", choices=["encode", "fit"], default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, cap = Path(folder), 16 << 30
        if options.part != "fit":
            source = mixtral_shape.make(place / "wide", n_ff=options.n_ff, n_expert=options.n_expert, n_vocab=2048)
            job = QuantizeSettings(source=source, output=place / "wide.gguf", max_memory=cap)
            compare("encode: Q4_K_M", job, quantize, options)
        if options.part != "encode":
            width = options.fit_width
            source = mixtral_shape.make(
                place / "narrow", n_embd=width, n_ff=width * 7 // 2, n_expert=options.fit_experts, n_vocab=2048
            )
            job = QuantizeSettings(source=source, output=place / "narrow.gguf", max_memory=cap)
            compare("fit: Q4_K_M, balanced", job, fitter(options.tokens, place / "evidence"), options)


def weights(job: QuantizeSettings) -> int:
    with job.open() as model:
        return sum(t.n_weights for t in model.tensors)


def fitter(n_tokens: int, evidence: Path) -> Work:
    """Fits from the evidence that is in the folder, which the first run leaves there."""

    def work(job: QuantizeSettings, watch: Watch) -> None:
        settings = FitSettings(quantize=job, effort=Effort.BALANCED, n_tokens=n_tokens, evidence=evidence)
        quantize_fitted(settings, watch)

    return work


if __name__ == "__main__":
    arguments.run(main)
