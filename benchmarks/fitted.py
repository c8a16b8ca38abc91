"""Calibrating and fitting experts of Mixtral's shapes under a cap: planned memory and time against those measured.

Run it: python benchmarks/fitted.py [--effort balanced] [--max-memory 6GiB] [--n-expert 2] [--n-ff 14336]
            [--n-vocab 32000] [--tokens 4096] [--threads 2] [--layers 1] [--only ffn_down] [--target-bpw 4.5]
            [--cores 8] [--plan]
Layers 4096 wide, weights of noise, from safetensors to Q4_K_S as `ggufkit quantize --calibrate` does it; with
--target-bpw, to types that are chosen. Memory is what its processes hold of their own (RssAnon); pages of what is run
are mapped and not counted. Linux only: it is read from /proc.

Time is planned as the command plans it, from rates that it measures first, and every step is set against what it took.
Last, what all 32 layers of such a model take with 100,000 tokens on --cores cores: as planned from these rates, and
with every step as much longer or shorter than planned as it was here.
With --only, weights of other names stay in BF16: as much is gathered and held, and far less encoded. With --plan,
nothing is fitted: rates are measured, and the time of 32 layers is said.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import mixtral_shape

from ggufkit.architectures.source import open_source
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.cost import EffortCost, effort_cost
from ggufkit.fitting.duration import Run, step_seconds
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.rates import Rates
from ggufkit.fitting.timing import measured_rates
from ggufkit.formats.model import Model
from ggufkit.progress import Progress
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.recipe import Recipe, read_recipe
from ggufkit.recipes.search import Target
from ggufkit.reports import plan_text
from ggufkit.reports.units import human_bytes, human_seconds
from ggufkit.runtime.machine import choose_threads
from ggufkit.workflows.fit_plan import opened
from ggufkit.workflows.fit_settings import N_TOKENS, FitSettings
from ggufkit.workflows.fitted import carry_out
from ggufkit.workflows.plan import FitCost


def own_nbytes(pid: int) -> int:
    """Bytes of anonymous memory that the process holds, 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0].split()[1]) * 1024 if found else 0


def family_of(pid: int) -> list[int]:
    """The process and those that it started: commands that run models do it in a process of their own."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


class Clock:
    """Seconds that went by until the step in hand told of itself, by the names of the steps; says how far it is."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = {}
        self._began = self._since = self._said = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        now = time.perf_counter()
        self.taken[progress.step] = self.taken.get(progress.step, 0.0) + now - self._since
        self._since = now
        if now - self._said > 15:
            print(f"{now - self._began:.0f} s: {progress.what}", file=sys.stderr, flush=True)
            self._said = now


def made(settings: FitSettings, answers: Any) -> None:
    """In a process of its own: what was planned, the rates that it follows from, seconds by step, and of all."""
    with opened(settings) as plan:
        plan.measure()
        print(plan_text.said(plan.said), file=sys.stderr, flush=True)
        started, clock = time.perf_counter(), Clock()
        carry_out(plan, clock)
        answers.send((plan.said, plan.rates, clock.taken, time.perf_counter() - started))


def watched(settings: FitSettings) -> tuple[FitCost, Rates, dict[str, float], float, int]:
    """The same, and the most own memory seen every 100 ms, of all its processes."""
    spawn = multiprocessing.get_context("spawn")
    answers, there = spawn.Pipe(duplex=False)
    process = spawn.Process(target=made, args=(settings, there))
    process.start()
    there.close()
    most, looks = 0, 0
    while not answers.poll(0.1) and process.is_alive():
        if looks % 20 == 0:
            family = family_of(process.pid or 0)
        most, looks = max(most, sum(map(own_nbytes, family))), looks + 1
    process.join()
    if process.exitcode:
        sys.exit(f"fitting ended with {process.exitcode}")
    return *answers.recv(), most


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--effort", default="balanced", choices=list(Effort))
    parser.add_argument("--max-memory", type=arguments.nbytes, default="6GiB")
    parser.add_argument("--n-expert", type=arguments.count, default=2)
    parser.add_argument("--n-ff", type=arguments.count, default=14336)
    parser.add_argument("--n-vocab", type=arguments.count, default=32000)
    parser.add_argument("--tokens", type=arguments.count, default=4096)
    parser.add_argument("--threads", type=arguments.count, default=choose_threads().n)
    parser.add_argument("--layers", type=arguments.count, default=1)
    parser.add_argument("--only")
    parser.add_argument("--target-bpw", type=arguments.positive)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--cores", type=arguments.count, default=8)
    options = parser.parse_args()
    (plan if options.plan else fit)(options)


def fit(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = mixtral_shape.make(
            Path(folder) / "source", n_layer=options.layers, n_ff=options.n_ff, n_expert=options.n_expert,
            n_vocab=options.n_vocab,
        )  # fmt: skip
        job = QuantizeSettings(
            source=source, output=Path(folder) / "out.gguf", recipe=recipe(Path(folder), options.only),
            threads=options.threads, max_memory=options.max_memory,
        )  # fmt: skip
        target = None if options.target_bpw is None else Target(bpw=options.target_bpw)
        settings = FitSettings(quantize=job, effort=Effort(options.effort), n_tokens=options.tokens, target=target)
        planned, rates, taken, seconds, most = watched(settings)
        all_planned, cost = whole(source, rates, options)
    print(f"{options.layers} layer(s) of {options.n_expert} experts of 4096 x {options.n_ff}, {options.effort}, "
          f"{options.threads} threads, {options.tokens} tokens, at most {human_bytes(options.max_memory)}")  # fmt: skip
    print(f"memory planned {human_bytes(planned.memory_nbytes)}, measured {human_bytes(most)}; "
          f"{planned.n_readings} reading(s) of a layer's stream")  # fmt: skip
    all_taken = {name: one * taken.get(name, one) / max(planned.seconds.get(name, one), 1e-9)
                 for name, one in all_planned.items()}  # fmt: skip
    print(f"seconds{'planned':>19}{'taken':>9}    32 layers:{'planned':>10}{'as it was here':>18}")
    for name, one in planned.seconds.items():
        print(f"{name:17}{one:9.1f}{taken.get(name, 0.0):9.1f}"
              f"{human_seconds(all_planned[name]):>24}{human_seconds(all_taken[name]):>18}")  # fmt: skip
    print(f"{'in all':17}{sum(planned.seconds.values()):9.1f}{seconds:9.1f}"
          f"{human_seconds(sum(all_planned.values())):>24}{human_seconds(sum(all_taken.values())):>18}")  # fmt: skip
    print(said(options, cost))
    if most > planned.memory_nbytes:
        sys.exit("more memory than planned")


def recipe(folder: Path, only: str | None) -> Recipe | str:
    if only is None:
        return "Q4_K_S"
    path = folder / "recipe.toml"
    path.write_text(f'base = "BF16"\n[[rules]]\nmatch = "*{only}*"\ntype = "Q4_K"\nreason = "alone"\n')
    return read_recipe(path)


def plan(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = mixtral_shape.make(
            Path(folder) / "source", n_ff=options.n_ff, n_expert=options.n_expert, n_vocab=options.n_vocab
        )
        with open_source(source) as one:
            rates = measured_rates(one, make_plan(one, "Q4_K_M"), Effort(options.effort), threads=options.threads,
                                   folder=Path(folder))  # fmt: skip
        seconds, cost = whole(source, rates, options)
    print(", ".join(f"{name} {human_seconds(one)}" for name, one in seconds.items()))
    print(f"{human_seconds(sum(seconds.values()))} in all; {said(options, cost)}")


def whole(source: Path, rates: Rates, options: argparse.Namespace) -> tuple[Mapping[str, float], EffortCost]:
    """Seconds by step of 32 such layers on so many cores, types chosen, and what else they cost."""
    with open_source(source) as one:
        deep, effort = layers_of(one, 32), Effort(options.effort)
        recipe = make_plan(deep, "Q4_K_M")
    cost = effort_cost(deep, recipe, effort, threads=options.cores, max_memory=options.max_memory, n_tokens=N_TOKENS)
    corpus = Corpus(source, "word " * 2 * N_TOKENS, n_tokens=N_TOKENS)
    run = Run(model=deep, corpus=corpus, cost=cost, effort=effort, plan=recipe, by_layer=True, n_probe=0)
    return step_seconds(run, on_more_cores(rates, options.cores / options.threads)), cost


def said(options: argparse.Namespace, cost: EffortCost) -> str:
    rates = f", rates of {options.threads} times {options.cores / options.threads:g}"
    return (f"32 layers: {N_TOKENS} tokens, {options.cores} cores{'' if options.cores == options.threads else rates}, "
            f"types chosen; {cost.n_walks} reading(s) of a layer's stream, {human_bytes(cost.peak_nbytes)} of memory "
            f"besides {human_bytes(cost.mapped_nbytes)} that are mapped, {human_bytes(cost.disk_nbytes)} of disk on "
            "the way")  # fmt: skip


def layers_of(one: Model, n_layer: int) -> Model:
    """A model of its first layer, again and again."""
    layer = [t for t in one.tensors if t.name.startswith("blk.0.")]
    outer = [t for t in one.tensors if not t.name.startswith("blk.")]
    more = [replace(t, name=f"blk.{i}.{t.name.removeprefix('blk.0.')}") for i in range(n_layer) for t in layer]
    return replace(one, hparams=replace(one.hparams, n_layer=n_layer), tensors=(*outer, *more))


def on_more_cores(rates: Rates, times: float) -> Rates:
    """The disk stays as it is."""
    return replace(
        rates, reading=times * rates.reading, back=times * rates.back, moments=times * rates.moments,
        table={n: min(times, 3) * rate for n, rate in rates.table.items()},
        encode={key: times * rate for key, rate in rates.encode.items()},
        curvature={n: seconds / times for n, seconds in rates.curvature.items()},
    )  # fmt: skip


if __name__ == "__main__":
    arguments.run(main)
