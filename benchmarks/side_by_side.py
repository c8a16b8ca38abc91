"""What benchmarks of whole commands share: a command run and measured, where the peer is, and files to run on."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import arguments
import mixtral_shape

import quant
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.runtime import machine
from ggufkit.workflows.quantize import quantize
from quant import waiting

ROOT = Path(__file__).resolve().parents[1]
GGUFKIT = (sys.executable, "-m", "ggufkit")
Result = TypeVar("Result")
TEXTS = ROOT / "ggufkit" / "data" / "text"


# the kernel adds what a process read and wrote to its parent's figures when the parent waits for it
COUNT_IO = '"$@"; code=$?; cat /proc/$$/io >&{fd}; exit $code'


class Measured(NamedTuple):
    """What one command printed and took: `processor` seconds of all threads, `peak` bytes resident, and bytes
    `read` and `written` through the kernel (0 where it does not count; pages of mapped files are not counted)."""

    out: str
    err: str
    seconds: float
    processor: float
    peak: int
    read: int = 0
    written: int = 0


def measured(command: list[str], *, together: bool = False) -> Measured:
    """Run a command to its end; a failure ends the benchmark. `together` puts both streams into `out`, in order.

    How threads wait is each program's own choice: what the shell says of it is left out.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, tempfile.TemporaryFile("w+") as io:
        counted = (
            ["sh", "-c", COUNT_IO.format(fd=io.fileno()), "sh", *command] if Path("/proc/self/io").exists() else command
        )
        clean = {name: value for name, value in os.environ.items() if name not in waiting.VARIABLES}
        started = time.perf_counter()
        process = subprocess.Popen(
            counted, stdout=out, stderr=out if together else err, cwd=ROOT, pass_fds=[io.fileno()], env=clean
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err, io):
            file.seek(0)
        said, complained = out.read(), err.read()
        if process.returncode:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{(said + complained)[-2000:]}")
        unit = 1 if sys.platform == "darwin" else 1024
        moved = dict(line.split(": ") for line in io.read().splitlines())
        return Measured(
            said, complained, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit,
            int(moved.get("rchar", 0)), int(moved.get("wchar", 0)),
        )  # fmt: skip


def parser(doc: str | None, peer: str) -> argparse.ArgumentParser:
    """Options that all have: --peer (found under the peer's name in capitals, or on PATH), --threads, --rounds."""
    out = arguments.parser(doc)
    found = os.environ.get(peer.upper().replace("-", "_")) or shutil.which(peer)
    out.add_argument("--peer", type=arguments.file, default=found, required=not found, help=f"path of {peer}")
    out.add_argument("--threads", type=arguments.count, default=machine.choose_threads().n)
    out.add_argument("--rounds", type=arguments.count, default=5)
    return out


def in_turns(n_rounds: int, *programs: Callable[[], Result]) -> list[tuple[Result, ...]]:
    """Results of the programs, each run once a round; the first round warms caches and is not kept."""
    return [tuple(program() for program in programs) for _ in range(n_rounds + 1)][1:]


def shipped_model(output: Path, recipe: str) -> Path:
    """The shipped model, encoded by llama.cpp's own encoder."""
    source = ROOT / "models" / "tiny-mixtral"
    quantize(QuantizeSettings(source=source, output=output, recipe=recipe, encoder=quant.Encoder.GGML))
    return output


def wide_model(output: Path, recipe: str) -> Path:
    """One layer of Mixtral's shapes with 32,000 tokens, weights of noise."""
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        source = mixtral_shape.make(Path(folder) / "wide")
        quantize(QuantizeSettings(source=source, output=output, recipe=recipe))
    return output
