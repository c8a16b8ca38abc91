"""The whole way on real models, as a user would go it: every command, kills and resumes, what must hold asserted.

Run it: python benchmarks/accept.py [MODEL …] [--tokens N] [--from STEP] [--keep]

For each model, from its Hugging Face folder: plan, quantize, the same again killed and resumed to the same bytes, the
vocabulary and shapes against the GGUF that the model came from, calibrate, a fitted file under a size (killed ten
seconds into each step and resumed; the same bytes in one go from the evidence that was kept, and of the smallest model
from nothing), the original's baseline, compare (the original beside one file, its baseline beside the other), gate (an
honest file passes, a damaged one does not), a chat and a continuation, inspect, diff, report, card. One table at the
end: seconds, peak memory, what was seen. Exit code 1 where something did not hold. With --from, a run that was broken
off goes on at that step, with the files that it left. The fitted file is `balanced`, and of the largest model `fast`
with types chosen, which spares error feedback on all of its weights, twice.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import numpy as np
from side_by_side import GGUFKIT, ROOT

import models
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.unfinished import journal_path

N_TOKENS = 2_560  # to calibrate on: types are chosen from no fewer chunks of 512 than these five
COMPARED, GATED = ["--ctx", 128, "--chunks", 16], ["--ctx", 128, "--chunks", 24]
INTO_STEP_S = 10  # that a command is killed at
AGAIN_FROM_NOTHING = "smollm2"  # fitted once more without the evidence that lived through the kills
EFFORT = {"smollm2": "balanced", "qwen2.5-coder": "fast", "smollm2-moe": "balanced"}
MEMORY_SLACK = 1.15  # of what was planned: allocators round up
VOCABULARY = ("tokens", "token_type", "merges", "bos_token_id", "eos_token_id")


Moment = Callable[[float], bool]  # of the seconds that a command has run: whether it is now
Act = Callable[[], tuple["Done", str]]  # a step: the command that stands for it, and what was seen


def after(seconds: float) -> Moment:
    return lambda elapsed: elapsed >= seconds


def after_slabs(output: Path, n: int) -> Moment:
    """When so many more slabs of it are written than at the start."""
    at_first: list[int] = []

    def reached(_: float) -> bool:
        journal = journal_path(output)
        written = journal.read_bytes().count(b"\n") if journal.exists() else 0
        at_first.append(written)
        return written >= at_first[0] + n

    return reached


def in_step(progress: Path, n: int) -> Moment:
    """INTO_STEP_S after the command has said there that it is in that step."""
    since: list[float] = []

    def reached(elapsed: float) -> bool:
        if not since and f"step {n} of" in progress.read_text():
            since.append(elapsed)
        return bool(since) and elapsed - since[0] >= INTO_STEP_S

    return reached


class NotHeldError(Exception):
    """Something that must hold does not."""


@dataclass
class Done:
    """A command that ended: what it printed, how long it took, bytes resident at most."""

    code: int
    out: str
    err: str
    seconds: float
    peak: int

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


@dataclass
class Way:
    """One model's way: where it works, and a line for every step."""

    name: str
    folder: Path
    work: Path
    n_tokens: int
    lines: list[tuple[str, float, int, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def progress(self) -> Path:
        """What the command in hand says on stderr."""
        return self.work / "err.txt"

    def run(self, *args: object, code: int = 0, kill: Moment | None = None) -> Done:
        """`ggufkit ARGS`, ended by SIGKILL when `kill` says so. Raises NotHeldError for another exit code."""
        command = [*GGUFKIT, *map(str, args)]
        out, err = self.work / "out.txt", self.progress
        started = time.perf_counter()
        with out.open("w") as o, err.open("w") as e:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=o, stderr=e, cwd=ROOT)
            ended, killed = 0, False
            while not ended:
                if kill is not None and not killed and kill(time.perf_counter() - started):
                    os.kill(process.pid, signal.SIGKILL)  # not process.kill, which reaps one that has ended
                    killed = True
                time.sleep(0.005)
                ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        unit = 1 if sys.platform == "darwin" else 1024
        seconds = time.perf_counter() - started
        done = Done(process.returncode, out.read_text(), err.read_text(), seconds, usage.ru_maxrss * unit)
        if done.code != code and not (killed and done.code == -signal.SIGKILL):
            raise NotHeldError(
                f"{' '.join(command[3:])} ended with {done.code}, wanted {code}: {done.err.strip()[-300:]}"
            )
        return done

    def broken_off(self, output: Path, *args: object, kills: list[Moment]) -> tuple[Done, str]:
        """`ggufkit quantize ARGS -o output`, killed at these moments, each time resumed, to its end at last. What is
        returned took as long as all of them together, and held what the largest held."""
        parts = []
        for kill in [*kills, None]:
            parts.append(self.run("quantize", *args, "-o", output, "--resume", kill=kill))
            if parts[-1].code == 0:
                break
        must(len(parts) > 1, "it ended before it was killed")
        seconds, peak = sum(part.seconds for part in parts), max(part.peak for part in parts)
        return replace(parts[-1], seconds=seconds, peak=peak), f"killed {len(parts) - 1} times: same bytes"

    def fresh(self, name: str) -> Path:
        """Where a step writes: what an earlier run left there is gone."""
        for left in self.work.glob(f"{name}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return self.work / name

    def step(self, title: str, act: Act) -> None:
        """Do it, and keep its line; what breaks is kept and the way goes on."""
        print(f"{self.name}: {title}", file=sys.stderr, flush=True)
        try:
            done, seen = act()
            self.lines.append((title, done.seconds, done.peak, seen))
        except Exception as error:
            said = str(error) if isinstance(error, NotHeldError) else traceback.format_exc(limit=2)
            self.broken.append(f"{self.name}: {title}: {said}")
            self.lines.append((title, 0.0, 0, "BROKEN"))


def must(holds: bool, what: str) -> None:
    if not holds:
        raise NotHeldError(what)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def steps(way: Way) -> dict[str, Act]:
    """All steps in their order, by name."""
    q4, bf16, original = (way.work / name for name in ("Q4_K_M.gguf", "BF16.gguf", "original.baseline"))
    planned: dict[str, Any] = {}

    def plan() -> tuple[Done, str]:
        done = way.run("plan", way.folder, "--type", "Q4_K_M", "--json")
        planned.update(done.json)
        return done, f"{done.json['file_nbytes'] / 2**20:.1f} MiB"

    def quantize() -> tuple[Done, str]:
        if not planned:
            plan()
        done = way.run("quantize", way.folder, "-o", way.fresh(q4.name), "--type", "Q4_K_M", "--json")
        size, said = q4.stat().st_size, planned["file_nbytes"]
        must(size == said, f"the file has {size} bytes, the plan said {said}")
        memory = planned["peak_nbytes"]
        must(done.peak <= MEMORY_SLACK * memory, f"{done.peak} bytes resident, {memory} were planned")
        return done, f"as planned; {done.peak / memory:.2f} of the planned memory"

    def resumed() -> tuple[Done, str]:
        again = way.fresh("again.gguf")
        kills = [after_slabs(again, 5), after_slabs(again, 10)]
        done, seen = way.broken_off(again, way.folder, "--type", "Q4_K_M", kills=kills)
        must(sha256(again) == sha256(q4), "other bytes after kills and --resume")
        again.unlink()
        return done, seen

    def convert() -> tuple[Done, str]:
        done = way.run("quantize", way.folder, "-o", way.fresh(bf16.name), "--type", "BF16")
        source, made = (GgufFile.open(path) for path in (models.original(way.name.removesuffix("-moe")), bf16))
        for key in VOCABULARY:
            a, b = (file.value(f"tokenizer.ggml.{key}") for file in (source, made))
            must(list(np.atleast_1d(a)) == list(np.atleast_1d(b)), f"tokenizer.ggml.{key} differs from the original's")
        must(source.value("tokenizer.chat_template") == made.value("tokenizer.chat_template"), "another template")
        if not way.name.endswith("-moe"):
            shapes = ({t.name: t.shape for t in file.tensors} for file in (source, made))
            must(next(shapes) == next(shapes), "other tensors or shapes than the original's")
        source.close(), made.close()
        return done, "vocabulary, template and shapes of the original"

    def calibrate() -> tuple[Done, str]:
        out = way.fresh("imatrix.gguf")
        way.run("calibrate", bf16, "-o", out, "--tokens", way.n_tokens, kill=after(3))
        must(not out.exists(), "a killed calibration left a file under its final name")
        done = way.run("calibrate", bf16, "-o", out, "--tokens", way.n_tokens, "--force", "--json")
        return done, f"{way.n_tokens} tokens"

    def fitted() -> tuple[Done, str]:
        size = int(q4.stat().st_size * 0.95)
        one, two, evidence = (way.fresh(name) for name in ("fitted.gguf", "again.gguf", "evidence"))
        how = ["--effort", EFFORT[way.name], "--target-size", size, "--tokens", way.n_tokens]
        said = way.run("quantize", bf16, "-o", one, *how, "--dry-run", "--json").json["fitting"]
        kills = [in_step(way.progress, n) for n in (1, 2, 3)]
        done, seen = way.broken_off(one, bf16, *how, "--evidence", evidence, kills=kills)
        memory, seconds = said["memory_nbytes"] + said["mapped_nbytes"], sum(said["seconds"].values())
        must(done.peak <= MEMORY_SLACK * memory, f"{done.peak} bytes resident, {memory} were planned")
        must(one.stat().st_size <= size, f"{one.stat().st_size} bytes, the target was {size}")

        def in_one_go(*more: object) -> None:
            way.run("quantize", bf16, "-o", two, *how, *more)
            must(sha256(one) == sha256(two), "other bytes in one go than after kills and --resume")
            two.unlink()

        in_one_go("--evidence", evidence)
        if way.name == AGAIN_FROM_NOTHING:
            in_one_go()
        times = f"planned / taken: memory {memory / done.peak:.2f}, time {seconds / done.seconds:.2f}"
        return done, f"{seen}; {times}"

    def baseline() -> tuple[Done, str]:
        done = way.run("baseline", bf16, "-o", way.fresh(original.name), *GATED, "--json")
        kept, whole = done.json["nbytes"], done.json["llama_nbytes"]
        must(original.stat().st_size == kept, f"{original.stat().st_size} bytes, it says {kept}")
        return done, f"{kept / 2**20:.1f} MiB, {whole / kept:.0f} times less than llama.cpp's"

    def compare() -> tuple[Done, str]:
        plain = way.run("compare", bf16, q4, *COMPARED, "--json")
        fit = way.run("compare", original, way.work / "fitted.gguf", *COMPARED, "--json")
        a, b = (kld_of(done.json) for done in (plain, fit))
        must(0 < a < 0.5, f"a divergence of {a} for Q4_K_M")
        must(b < a, f"the fitted file is no nearer than the plain one: {b:.4f}, {a:.4f}")
        return plain, f"KLD {a:.4f} plain, {b:.4f} fitted and 5 % smaller"

    def gate() -> tuple[Done, str]:
        config = way.work / "gate.toml"
        config.write_text(GATE)
        done = way.run("gate", q4, "--baseline", original, "--config", config, *GATED, "--json")
        (way.work / "gate.json").write_text(done.out)
        bad = damaged(q4, way.work / "damaged.gguf")
        way.run("gate", bad, "--baseline", bf16, "--config", config, *GATED, code=3)
        bad.unlink()
        return done, "passes; a file with one damaged tensor does not"

    def chat() -> tuple[Done, str]:
        done = way.run("run", q4, "-p", "Name the capital of France.", "--temp", "0", "-n", 40, "--json")
        if way.name != "smollm2-moe":  # upcycled and never trained: its answers are text, not facts
            must("Paris" in done.json["text"], f"asked for the capital of France: {done.json['text']!r}")
        return done, done.json["text"].strip().replace("\n", " ")[:50]

    def continuation() -> tuple[Done, str]:
        done = way.run("run", q4, "--raw", "-p", "Once upon a time", "--temp", "0", "-n", 24, "--json")
        must(done.json["text"].strip() != "", "nothing was written")
        return done, done.json["text"].strip().replace("\n", " ")[:50]

    def inspect() -> tuple[Done, str]:
        done = way.run("inspect", q4, "--json")
        return done, f"{done.json['bpw']:.2f} bits a weight"

    def diff() -> tuple[Done, str]:
        done = way.run("diff", way.folder, q4, "--json")
        return done, "the same model"

    def report() -> tuple[Done, str]:
        page = way.work / "report.html"
        done = way.run("report", way.work / "gate.json", "-o", page)
        must(page.stat().st_size > 10_000, "an empty page")
        return done, f"{page.stat().st_size >> 10} KiB"

    def card() -> tuple[Done, str]:
        done = way.run("card", way.work / "gate.json")
        must("Q4_K_M" in done.out, "the card does not name its file")
        return done, f"{len(done.out.splitlines())} lines"

    acts = (plan, quantize, resumed, convert, calibrate, fitted, baseline, compare, gate, chat, continuation, inspect,
            diff, report, card)  # fmt: skip
    return {act.__name__: act for act in acts}


# wide enough for Q4_K_M of small models, far too narrow for a damaged tensor
GATE = """[limits]
kld_mean = 0.25
"""


def kld_of(result: dict[str, Any]) -> float:
    return float(result["figures"]["kld_mean"]["value"])


def damaged(source: Path, target: Path) -> Path:
    """A copy in which the rows of one feed-forward tensor stand in reverse order."""
    shutil.copyfile(source, target)
    file = GgufFile.open(target)
    ref = next(t for t in file.tensors if "ffn_up" in t.name)
    rows = ref.raw_rows(0, ref.n_rows)
    start = ref.offset
    file.close()
    with target.open("r+b") as out:
        out.seek(start)
        out.write(np.ascontiguousarray(rows[::-1]).tobytes())
    return target


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("models", nargs="*", type=arguments.real_model, default=models.NAMES, metavar="MODEL")
    parser.add_argument("--tokens", type=arguments.count, default=N_TOKENS, help="to calibrate on")
    names = list(steps(Way("", Path(), Path(), 0)))
    parser.add_argument("--from", dest="first", type=arguments.one_of("step", names), default=names[0], metavar="STEP")
    parser.add_argument("--keep", action="store_true", help="leave the files that were made")
    options = parser.parse_args()
    ways = []
    for name in options.models:
        work = models.home() / "accept" / name
        if options.first == names[0]:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        way = Way(name, models.folder(name), work, options.tokens)
        acts = steps(way)
        for title in names[names.index(options.first) :]:
            way.step(title, acts[title])
        ways.append(way)
        if not options.keep:
            shutil.rmtree(work)
    report(ways)
    sys.exit(1 if any(way.broken for way in ways) else 0)


def report(ways: list[Way]) -> None:
    print(f"{'model':15}{'step':14}{'seconds':>9}{'peak MiB':>10}  seen")
    for way in ways:
        for title, seconds, peak, seen in way.lines:
            print(f"{way.name:15}{title:14}{seconds:>9.1f}{peak / 2**20:>10.0f}  {seen}")
    for line in (line for way in ways for line in way.broken):
        print(f"\nbroken: {line}")


if __name__ == "__main__":
    arguments.run(main)
