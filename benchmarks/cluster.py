"""Encoding and fitting with 1, 2 and 3 worker processes against one process: time, core seconds, memory, equal bytes.

Run it: python benchmarks/cluster.py [--part encode] [--n-expert 2] [--n-ff 14336] [--fit-width 1024] [--tokens 4096]
encode  a layer of Mixtral's shapes (4096 wide) to Q4_K_M, searched without importance
fit     a layer 1024 wide with four experts, `--effort balanced`; only the encoding counts, from calibration on

In each, one run of three workers loses one of them in the middle. Start is the time until all workers are there and
were looked at. Core seconds are those of all processes from then on, which other programs on the machine disturb less
than the time. Efficiency: core seconds of one thread here / core seconds of the workers and the command.
Ends with an error where two files differ.
"""

import dataclasses
import hashlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import mixtral_shape
import psutil

from ggufkit.fitting.encoders import Effort
from ggufkit.progress import Progress
from ggufkit.reports.units import human_bytes
from ggufkit.workflows.fitted import FitSettings, quantize_fitted
from ggufkit.workflows.quantize import QuantizeSettings, quantize


@dataclasses.dataclass
class Watch:
    """A run and its processes: seconds to start and to work, core seconds, and the most memory of a worker."""

    kill_at: float | None = None
    begun: float = 0.0
    core: float = 0.0
    start: float = 0.0
    worked: float = 0.0
    used: float = 0.0
    peak: int = 0

    def __post_init__(self) -> None:
        self.started = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        if not self.begun:
            self.begun, self.core = time.perf_counter(), core_seconds()
            self.start = self.begun - self.started
        workers = workers_here()
        self.peak = max([self.peak, *(memory_of(process) for process in workers)])
        self.worked, self.used = time.perf_counter() - self.begun, core_seconds() - self.core
        if self.kill_at is not None and progress.done > self.kill_at * progress.total and workers:
            workers[0].send_signal(signal.SIGKILL)
            self.kill_at = None


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
    """Of this process and its workers; those of one that was killed are lost."""
    total = time.process_time()
    for process in workers_here():
        try:
            times = process.cpu_times()
            total += times.user + times.system
        except psutil.Error:
            continue
    return total


def compare(what: str, settings: QuantizeSettings, n_weights: int, work: Work) -> None:
    print(f"\n{what}, {n_weights / 1e6:.0f} million weights")
    print(f"{'':24}{'start, s':>9}{'work, s':>9}{'core s':>9}{'Mweights/core s':>17}{'efficiency':>12}{'a worker':>11}")
    one, digests = 0.0, set()
    runs = [("one thread here", 0, None), *((f"{n} workers", n, None) for n in (1, 2, 3)), ("3, one killed", 3, 0.4)]
    for label, n, kill_at in runs:
        watch = Watch(kill_at)
        job = dataclasses.replace(settings, workers=n, threads=0 if n else 1, force=True)
        work(job, watch)
        digests.add(hashlib.sha256(job.output.read_bytes()).hexdigest())
        one = one or watch.used
        spent = f"{watch.used:9.1f}{n_weights / 1e6 / watch.used:17.2f}{one / watch.used:12.2f}"
        spent = spent if kill_at is None else " " * 38
        print(f"{label:24}{watch.start:9.1f}{watch.worked:9.1f}{spent}{human_bytes(watch.peak):>11}", flush=True)
    print(f"SHA-256 {'the same in all' if len(digests) == 1 else 'DIFFERENT'}: {min(digests)[:16]}")
    if len(digests) > 1:
        sys.exit("files differ")


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--n-expert", type=arguments.count, default=2)
    parser.add_argument("--n-ff", type=arguments.count, default=14336)
    parser.add_argument("--fit-width", type=arguments.count, default=1024)
    parser.add_argument("--tokens", type=arguments.count, default=4096)
    parser.add_argument("--part", choices=["encode", "fit"], default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, cap = Path(folder), 16 << 30
        if options.part != "fit":
            source = mixtral_shape.make(place / "wide", n_ff=options.n_ff, n_expert=options.n_expert, n_vocab=2048)
            job = QuantizeSettings(source=source, output=place / "wide.gguf", max_memory=cap)
            compare("encode: Q4_K_M", job, weights(job), quantize)
        if options.part != "encode":
            width = options.fit_width
            source = mixtral_shape.make(place / "narrow", n_embd=width, n_ff=width * 7 // 2, n_expert=4, n_vocab=2048)
            job = QuantizeSettings(source=source, output=place / "narrow.gguf", max_memory=cap)
            compare("fit: Q4_K_M, balanced", job, weights(job), fitter(options.tokens))


def weights(job: QuantizeSettings) -> int:
    with job.open() as model:
        return sum(t.n_weights for t in model.tensors)


def fitter(n_tokens: int) -> Work:
    """Fits, and has only the encoding watched: the text is read by the command, whoever encodes."""

    def work(job: QuantizeSettings, watch: Watch) -> None:
        def on_progress(progress: Progress) -> None:
            if "encoding" in progress.what:
                watch(progress)
            else:
                watch.begun = 0.0  # once more, behind the last reading of the text

        quantize_fitted(FitSettings(quantize=job, effort=Effort.BALANCED, n_tokens=n_tokens), on_progress)

    return work


if __name__ == "__main__":
    arguments.run(main)
