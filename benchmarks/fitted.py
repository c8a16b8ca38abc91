"""Calibrating and fitting experts of Mixtral's shapes under a cap: planned memory and time against those measured.

Run it: python benchmarks/fitted.py [--effort balanced] [--max-memory 6GiB] [--n-expert 2] [--n-ff 14336]
                                   [--tokens 4096] [--threads 2] [--layers 1] [--only ffn_down]
Layers 4096 wide, weights of noise, from safetensors to Q4_K_S with `ggufkit quantize --calibrate`. Memory is what
its processes hold of their own (RssAnon); pages of what is run are mapped and not counted.
Linux only: it is read from /proc. With --only, weights of other names stay in BF16: as much is gathered and held, and
far less encoded. With --plan, nothing is fitted: rates are measured on the layer, and the time is said
that all 32 layers of 8x7B take on --cores cores, as `ggufkit plan --effort` says it where the weights are.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import mixtral_shape
from side_by_side import GGUFKIT, ROOT

from ggufkit.architectures.source import open_source
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.cost import effort_cost
from ggufkit.fitting.duration import Run, step_seconds
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.rates import Rates
from ggufkit.fitting.timing import measured_rates
from ggufkit.formats.model import Model
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.recipe import Recipe, read_recipe
from ggufkit.reports.units import human_bytes, human_seconds
from ggufkit.workflows.fitted import FitSettings, cost_of


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


def run(command: list[str]) -> tuple[float, int]:
    """Seconds, and the most own memory seen every 100 ms."""
    started, most, looks = time.perf_counter(), 0, 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    while process.poll() is None:
        if looks % 20 == 0:
            family = family_of(process.pid)
        most, looks = max(most, sum(map(own_nbytes, family))), looks + 1
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, most


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--effort", default="balanced", choices=list(Effort))
    parser.add_argument("--max-memory", type=arguments.nbytes, default="6GiB")
    parser.add_argument("--n-expert", type=arguments.count, default=2)
    parser.add_argument("--n-ff", type=arguments.count, default=14336)
    parser.add_argument("--tokens", type=arguments.count, default=4096)
    parser.add_argument("--threads", type=arguments.count, default=2)
    parser.add_argument("--layers", type=arguments.count, default=1)
    parser.add_argument("--only")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--cores", type=arguments.count, default=8)
    options = parser.parse_args()
    (plan if options.plan else fit)(options)


def fit(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = mixtral_shape.make(
            Path(folder) / "source", n_layer=options.layers, n_ff=options.n_ff, n_expert=options.n_expert, n_vocab=2048
        )
        recipe = recipe_in(Path(folder), options.only)
        output = Path(folder) / "out.gguf"
        cap = options.max_memory
        job = QuantizeSettings(source=source, output=output, recipe=recipe[1], threads=options.threads, max_memory=cap)
        cost = cost_of(FitSettings(quantize=job, effort=Effort(options.effort), n_tokens=options.tokens))
        command = [*GGUFKIT, "quantize", str(source), "-o", str(output), *recipe[0], "--effort", options.effort,
                   "--tokens", str(options.tokens), "--max-memory", str(options.max_memory),
                   "--threads", str(options.threads)]  # fmt: skip
        seconds, most = run(command)
    print(f"{options.layers} layer(s) of {options.n_expert} experts of 4096 x {options.n_ff}, {options.effort}, "
          f"{options.threads} threads, {options.tokens} tokens, at most {human_bytes(options.max_memory)}")  # fmt: skip
    print(f"memory    planned {human_bytes(cost.peak_nbytes)}, measured {human_bytes(most)}")
    print(f"encoding  planned {cost.encode_seconds:.0f} s; all of the command {seconds:.0f} s, {cost.n_walks} walk(s)")
    if most > cost.peak_nbytes:
        sys.exit("more memory than planned")


def recipe_in(folder: Path, only: str | None) -> tuple[list[str], Recipe | str]:
    """As the command takes it, and as it is."""
    if only is None:
        return ["--type", "Q4_K_S"], "Q4_K_S"
    path = folder / "recipe.toml"
    path.write_text(f'base = "BF16"\n[[rules]]\nmatch = "*{only}*"\ntype = "Q4_K"\nreason = "alone"\n')
    return ["--recipe", str(path)], read_recipe(path)


def plan(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = mixtral_shape.make(Path(folder) / "source", n_ff=options.n_ff, n_expert=options.n_expert)
        with open_source(source) as one:
            deep, recipe = layers_of(one, 32), make_plan(one, "Q4_K_M")
            effort, threads = Effort(options.effort), options.threads
            rates = measured_rates(one, recipe, effort, threads=threads, folder=Path(folder))
    cost = effort_cost(
        deep, make_plan(deep, "Q4_K_M"), effort, threads=options.cores, max_memory=options.max_memory,
        n_tokens=options.tokens,
    )  # fmt: skip
    corpus = Corpus(source, "word " * 2 * options.tokens, n_tokens=options.tokens)
    run = Run(model=deep, corpus=corpus, cost=cost, effort=effort, plan=make_plan(deep, "Q4_K_M"), by_layer=True,
              n_probe=0)  # fmt: skip
    seconds = step_seconds(run, on_more_cores(rates, options.cores / threads))
    print(f"32 layers of {options.n_expert} experts of 4096 x {options.n_ff}, {effort}, {options.tokens} tokens, "
          f"{options.cores} cores, rates of {threads} threads times {options.cores / threads:g}")  # fmt: skip
    print(", ".join(f"{name} {human_seconds(one)}" for name, one in seconds.items()))
    print(f"{human_seconds(sum(seconds.values()))} in all; {cost.n_walks} reading(s) of a layer's stream, "
          f"{human_bytes(cost.peak_nbytes)} of memory besides {human_bytes(cost.mapped_nbytes)} that are mapped, "
          f"{human_bytes(cost.disk_nbytes)} of disk on the way")  # fmt: skip


def layers_of(one: Model, n_layer: int) -> Model:
    """A model of that layer, again and again."""
    layer = [t for t in one.tensors if t.name.startswith("blk.0.")]
    more = [replace(t, name=f"blk.{i}.{t.name.removeprefix('blk.0.')}") for i in range(1, n_layer) for t in layer]
    return replace(one, hparams=replace(one.hparams, n_layer=n_layer), tensors=(*one.tensors, *more))


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
