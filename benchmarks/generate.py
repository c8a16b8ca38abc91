"""Python's time a token while generating: ggufkit's loop beside llama-cpp-python's, in turns, in one process.

Run it: python benchmarks/generate.py [--tokens 128,512,1024,2048] [--rounds 3]
Both stream text from the same model with one thread and the same sampler. `llama_decode` and `llama_sampler_sample`
run in both and are taken off: what is printed is the processor time outside of them, in microseconds a token,
median of the rounds. The token that is drawn is replaced by one of a fixed list, so that no end token ends early and
both see the same text.

Then the time between two decodes of --model, one thread: caches hold weights then, not Python, so it is several times
what the first table says.

Then the speed of generating, alone and beside one process that keeps a core busy: as ggufkit has threads wait and
shares the cores, and as two threads or one would do otherwise. On a machine with other work only the ratios tell
something. --model FILE.gguf takes another model here than the shipped tiny-mixtral; smollm2 is that of
benchmarks/models, whose figures are kept in benchmarks/history/.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import arguments
import history

import models
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.runtime import library
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.generate import generate
from ggufkit.runtime.sampling import Sampling
from ggufkit.workflows.quantize import quantize
from quant import waiting

ROOT = Path(__file__).parents[1]
PROMPT = "Once upon a time"
N_CTX = 4096
Speeds = dict[tuple[str, bool], list[float]]  # tokens a second by way of waiting and whether another process is busy
AS_SET, GNUS = "as ggufkit sets", "GNU's own"
WAITING = {  # name -> environment, threads (None: as ggufkit chooses while it runs)
    AS_SET: ({}, None),
    "1000 spins": ({"GOMP_SPINCOUNT": "1000"}, 2),
    "asleep at once": ({"OMP_WAIT_POLICY": "passive"}, 2),
    GNUS: ({"GOMP_SPINCOUNT": "300000"}, 2),
    "one thread": ({}, 1),
}


class Watch:
    """Stands for the two C functions: runs them, and keeps the processor time that they took."""

    def __init__(self, lib: Any, tokens: list[int]) -> None:
        self._lib, self._tokens = lib, tokens
        self._real = {name: getattr(lib, name) for name in ("llama_decode", "llama_sampler_sample")}
        self.seconds = 0.0

    @contextmanager
    def placed(self) -> Iterator[None]:
        decode, sample = self._real["llama_decode"], self._real["llama_sampler_sample"]
        canned = itertools.cycle(self._tokens)

        def timed_decode(*args: Any) -> int:
            started = time.thread_time()
            code = decode(*args)
            self.seconds += time.thread_time() - started
            return code

        def timed_sample(*args: Any) -> int:
            started = time.thread_time()
            sample(*args)
            self.seconds += time.thread_time() - started
            return next(canned)

        self.seconds = 0.0
        self._lib.llama_decode, self._lib.llama_sampler_sample = timed_decode, timed_sample
        try:
            yield
        finally:
            self._lib.llama_decode, self._lib.llama_sampler_sample = decode, sample


def overhead(watch: Watch, run: Callable[[int], str], n: int) -> tuple[float, str]:
    """Microseconds of processor time a token outside the watched functions; and the text."""
    with watch.placed():
        started = time.thread_time()
        text = run(n)
        spent = time.thread_time() - started - watch.seconds
    return 1e6 * spent / n, text


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--tokens", type=arguments.listed(arguments.count), default="128,512,1024,2048")
    parser.add_argument("--rounds", type=arguments.count, default=3)
    parser.add_argument("--model", type=arguments.any_model, default=None)
    parser.add_argument("--speed-of", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=arguments.count, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.speed_of:
        print(speed(options.speed_of, options.threads))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stories.gguf"
        quantize(QuantizeSettings(source=ROOT / "models" / "stories260K", output=path, recipe="F16"))
        compare(path, options.tokens, options.rounds)
        model = file_of(options.model, Path(folder))
        between(model)
        found = wait(model, options.rounds)
    if options.model in models.NAMES:
        kind = history.machine()
        history.keep(history.path(kind), kind, rows(options.model, found))


def file_of(name: str | None, folder: Path) -> Path:
    """The GGUF of that path, or the shipped model's or that of benchmarks/models as Q4_K_M."""
    if name is not None and name not in models.NAMES:
        return Path(name)
    source = ROOT / "models" / "tiny-mixtral" if name is None else models.folder(name)
    path = folder / f"{name or source.name}.gguf"
    quantize(QuantizeSettings(source=source, output=path, recipe="Q4_K_M"))
    return path


def rows(model: str, found: Speeds) -> list[history.Row]:
    """Quiet: beside GNU's own waiting. Busy: beside its own quiet speed."""
    ours, usual = found[AS_SET, False], found[GNUS, False]
    said = "tokens/s", "more"
    command = f"benchmarks/generate.py --model {model}"
    return [
        history.Row("waiting", model, "quiet", *said, ours, usual, command, "GOMP_SPINCOUNT=300000"),
        history.Row("waiting", model, "beside a busy process", *said, found[AS_SET, True], ours, command, "quiet"),
        history.Row(
            "waiting", model, "beside a busy process, GNU's own", *said, found[GNUS, True], usual, command, "quiet"
        ),
    ]  # fmt: skip


def compare(path: Path, lengths: list[int], rounds: int) -> None:
    from llama_cpp import Llama

    lib = library.load()
    peer = Llama(str(path), n_ctx=N_CTX, n_threads=1, n_threads_batch=1, verbose=False)
    with Engine.open(path, n_ctx=N_CTX, threads=1) as engine:
        words = [t for t in range(3, engine.vocab.n_vocab) if engine.vocab.piece(t).isascii()][-200:]
        watch = Watch(lib, words)

        def ours(n: int) -> str:
            sampling = Sampling(seed=1)
            return "".join(generate(engine, engine.tokenize(PROMPT), sampling=sampling, max_tokens=n))

        def theirs(n: int) -> str:
            peer.reset()
            stream = peer.create_completion(PROMPT, max_tokens=n, temperature=0.8, top_k=40, seed=1, stream=True)
            return "".join(chunk["choices"][0]["text"] for chunk in stream)

        print(f"Python a token, outside decode and sample; one thread, median of {rounds} rounds")
        print(f"{'tokens':>8}{'ggufkit us':>13}{'llama-cpp-python us':>21}{'ratio':>9}")
        for n in lengths:
            pairs = [(overhead(watch, ours, n), overhead(watch, theirs, n)) for _ in range(rounds)]
            if pairs[0][0][1] != pairs[0][1][1]:
                sys.exit(f"the texts differ: {pairs[0][0][1][:80]!r} and {pairs[0][1][1][:80]!r}")
            mine, his = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
            print(f"{n:>8}{mine:>13.1f}{his:>21.1f}{his / mine:>9.0f}", flush=True)
    peer.close()


def between(path: Path) -> None:
    """Print the microseconds from the end of a decode to the beginning of the next, median of 64 tokens."""
    with Engine.open(path, n_ctx=512, threads=1) as engine:
        for what, temperature in (("the likeliest token", 0.0), ("drawn", 0.8)):
            took = gaps(engine, Sampling(temperature=temperature, seed=1))
            print(f"between two decodes of {path.name}, {what}: {1e6 * statistics.median(took):.0f} us", flush=True)


def gaps(engine: Engine, sampling: Sampling) -> list[float]:
    decode, ended = type(engine).decode_one, []
    took: list[float] = []

    def timed(token: int) -> None:
        took.extend(time.perf_counter() - last for last in ended[-1:])
        decode(engine, token)
        engine.lib.llama_synchronize(engine.handle)
        ended.append(time.perf_counter())

    engine.decode_one = timed
    list(generate(engine, engine.tokenize(PROMPT), sampling=sampling, max_tokens=66, stop=()))
    del engine.decode_one
    return took


def speed(path: Path, threads: int | None) -> float:
    """Tokens generated a second, the best of three answers."""
    found = []
    with Engine.open(path, n_ctx=512, threads=threads) as engine:
        for _ in range(3):
            generation = generate(
                engine, engine.tokenize(PROMPT), sampling=Sampling(temperature=0), max_tokens=64, stop=()
            )
            list(generation)
            assert generation.stats is not None
            found.append(generation.stats.generated_per_second)
    return max(found)


def wait(path: Path, rounds: int) -> Speeds:
    """Print the speed of each way of waiting, quiet and beside one busy process, in turns."""
    found: Speeds = {}
    for _ in range(rounds):
        for busy in (False, True):
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
            try:
                for name, (env, threads) in WAITING.items():
                    command = [sys.executable, __file__, "--speed-of", str(path)]
                    command += ["--threads", str(threads)] if threads else []
                    clean = {key: value for key, value in os.environ.items() if key not in waiting.VARIABLES}
                    done = subprocess.run(command, env=clean | env, check=True, capture_output=True)
                    found.setdefault((name, busy), []).append(float(done.stdout))
            finally:
                if other is not None:
                    other.kill()
                    other.wait()
    print(f"\n{path.name}: tokens/s on {os.cpu_count()} cores, median of {rounds} rounds")
    print(f"{'waiting':>16}{'quiet':>9}{'beside a busy process':>24}{'of its quiet speed':>20}")
    for name in WAITING:
        quiet, beside = (statistics.median(found[name, busy]) for busy in (False, True))
        print(f"{name:>16}{quiet:>9.1f}{beside:>24.1f}{100 * beside / quiet:>18.0f} %")
    return found


if __name__ == "__main__":
    arguments.run(main)
