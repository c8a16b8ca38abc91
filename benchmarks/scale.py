"""What making large models costs on 1, 8 and 64 machines, on paper: rates measured here, times shapes.

Run it: python benchmarks/scale.py [--cores 16] [--tokens 100000] [--disk 2e9] [--network 1.25e9] [--rounds 5]
                                  [--rates 192e6 6.3e9 28.5e9 35.8e9 49.5e9]
Rates are of one core of this machine, by the time that the processor spent, the best of some rounds: other programs
make them a little worse. Disk and network are assumptions, in bytes a second: of the storage that all machines read and
write, and of one machine's link. A machine has so many cores. --rates takes five that were measured before, in their
printed order, instead of measuring them. Prints the tables of docs/scale.md.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import mixtral_shape
import numpy as np

import quant
from ggufkit.encoding.encoder import BYTES_PER_WEIGHT
from ggufkit.encoding.memory import WORKER_NBYTES
from ggufkit.encoding.slabs import SLAB_WEIGHTS
from ggufkit.fitting.corpus import N_CTX
from ggufkit.fitting.encoders import REFINE_ROUNDS, Effort, bytes_per_weight, encode_fitted
from ggufkit.fitting.moments import ExpertMeans
from ggufkit.fitting.rates import BACK
from ggufkit.fitting.walks import moments_nbytes, width_of
from ggufkit.runtime.engine import Engine
from ggufkit.workflows.quantize import QuantizeSettings, quantize
from quant.covariance import Covariance, pooled_mean

WIDTH = 4096
BPW = 4.85  # of Q4_K_M
MACHINES = (1, 8, 64)
TAPED = 8 * 512  # tokens of large models whose gradients are taken back
FEW_LAYERS = 3  # of another kind, at the start


class Matrix(NamedTuple):
    """`n` matrices of that shape in each of `layers`, of which a token meets `used`."""

    n_rows: int
    n_per_row: int
    layers: int
    n: int = 1
    used: int = 1

    @property
    def n_weights(self) -> int:
        return self.n_rows * self.n_per_row * self.layers * self.n

    @property
    def width(self) -> int:
        return width_of((self.n, self.n_per_row))


def dense(d: int, ff: int, kv: int, layers: int, vocab: int, experts: int = 0) -> list[Matrix]:
    """Llama's and Mixtral's matrices."""
    n, used = (experts, 2) if experts else (1, 1)
    attention = [Matrix(d, d, layers), Matrix(kv, d, layers), Matrix(kv, d, layers), Matrix(d, d, layers)]
    mlp = [Matrix(ff, d, layers, n, used), Matrix(ff, d, layers, n, used), Matrix(d, ff, layers, n, used)]
    return [*attention, *mlp, Matrix(vocab, d, 1)]


def deepseek() -> list[Matrix]:
    """DeepSeek-V3 and R1: latent attention, 3 dense layers, 58 of 256 experts and one that all tokens meet."""
    d, layers = 7168, 61
    attention = [Matrix(1536, d, layers), Matrix(24576, 1536, layers), Matrix(576, d, layers),
                 Matrix(32768, 512, layers), Matrix(d, 16384, layers)]  # fmt: skip
    first = [Matrix(18432, d, 3), Matrix(18432, d, 3), Matrix(d, 18432, 3)]
    shared = [Matrix(2048, d, 58), Matrix(2048, d, 58), Matrix(d, 2048, 58)]
    experts = [Matrix(2048, d, 58, 256, 8), Matrix(2048, d, 58, 256, 8), Matrix(d, 2048, 58, 256, 8)]
    return [*attention, *first, *shared, *experts, Matrix(129280, d, 1)]


class Model(NamedTuple):
    """`bytes_per_weight` of the source."""

    name: str
    matrices: list[Matrix]
    bytes_per_weight: float
    n_layer: int
    n_embd: int


MODELS = (
    Model("Mistral 7B", dense(4096, 14336, 1024, 32, 32000), 2, 32, 4096),
    Model("Mixtral 8x7B", dense(4096, 14336, 1024, 32, 32000, 8), 2, 32, 4096),
    Model("Mixtral 8x22B", dense(6144, 16384, 1024, 56, 32768, 8), 2, 56, 6144),
    Model("671B, 256 experts", deepseek(), 1, 61, 7168),
)


@dataclass(frozen=True)
class Rates:
    """Of one core: weights a second searched; multiply-adds a second of fitting, factoring, moments, running."""

    plain: float
    fit: float
    factor: float
    moments: float
    run: float


def best(n: int, work: Callable[[], object]) -> float:
    """Least core seconds of n rounds; the first one warms up and does not count."""
    work()
    out = []
    for _ in range(n):
        started = time.process_time()
        work()
        out.append(time.process_time() - started)
    return min(out)


def measured(n: int) -> Rates:
    draw = np.random.default_rng(0)
    w, x = draw.standard_normal((256, WIDTH)).astype(np.float32), draw.standard_normal((512, WIDTH)).astype(np.float32)
    qtype, sums = quant.quant_type("Q4_K"), Covariance.zeros(1, WIDTH)
    plain = w.size / best(n, lambda: quant.quantize(w, qtype, importance=np.abs(x[0])))
    moments = len(x) * WIDTH * WIDTH / 2 / best(n, lambda: sums.add(x[:, None, :], None))
    mean = pooled_mean((sums,), 0)
    means = ExpertMeans(mean, mean, WIDTH, WIDTH, 0.05)
    factor = WIDTH**3 / 6 / best(2, means.evidence)
    evidence = means.evidence()
    rounds = REFINE_ROUNDS[Effort.BALANCED]
    fit = w.size * WIDTH / best(n, lambda: encode_fitted(w, qtype, evidence, rounds))
    return Rates(plain, fit, factor, moments, run_rate(n))


def run_rate(n: int) -> float:
    """Multiply-adds a second of one core that reads text with a layer of Mixtral's shapes in BF16."""
    with tempfile.TemporaryDirectory() as folder:
        source = mixtral_shape.make(Path(folder) / "source", n_expert=2, n_vocab=1024)
        path = Path(folder) / "run.gguf"
        quantize(QuantizeSettings(source=source, output=path, recipe="BF16"))
        tokens = np.arange(512, dtype=np.int32)
        active = sum(m.n_weights for m in dense(WIDTH, 14336, 512 * 2, 1, 0, 2))
        with Engine.open(path, n_ctx=512, n_batch=512, n_outputs=512, threads=1) as engine:

            def read() -> None:
                engine.clear()
                engine.decode(tokens, 0, logits=np.ones(512, dtype=np.int8))
                engine.logits(512)

            return len(tokens) * active / best(n, read)


def core_hours(model: Model, rates: Rates, n_tokens: int) -> dict[str, float]:
    rows = model.matrices
    active = sum(m.n_weights / m.n * m.used for m in rows)
    moments = sum(m.n_per_row * m.width / 2 * m.layers * m.used for m in rows)
    fit = sum(m.n_weights * m.width for m in rows) / rates.fit
    factors = sum(m.n_per_row * m.width**2 / 6 * m.layers * m.n for m in rows) / rates.factor
    seconds = {
        "plain": sum(m.n_weights for m in rows) / rates.plain,
        "reading": n_tokens * active / rates.run,
        "moments": n_tokens * moments / rates.moments,
        "fitting": fit + factors,
    }
    return {what: value / 3600 for what, value in seconds.items()}


def moments_of_a_layer(model: Model) -> int:
    """Bytes, of one with experts where there are any."""
    return sum(moments_nbytes((m.n, m.n_per_row)) for m in model.matrices if m.layers > FEW_LAYERS)


def handed_over(model: Model) -> int:
    """Bytes of moments that go from the command to workers, once: both parts of each expert."""
    return sum(moments_nbytes((m.n, m.n_per_row)) * m.layers for m in model.matrices)


def case(model: Model) -> int:
    """Bytes of one expert in hand of a worker: two parts, damped moments and their factor."""
    return max(4 * 4 * m.n_per_row * m.width for m in model.matrices)


def hours(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def gib(nbytes: float) -> str:
    return f"{nbytes / 2**30:,.1f} GiB" if nbytes < 100 * 2**30 else f"{nbytes / 2**30:,.0f} GiB"


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--cores", type=arguments.count, default=16)
    parser.add_argument("--tokens", type=arguments.count, default=100_000)
    parser.add_argument("--disk", type=arguments.positive, default=2e9)
    parser.add_argument("--network", type=arguments.positive, default=1.25e9)
    parser.add_argument("--rounds", type=arguments.count, default=5)
    names = ("SEARCH", "FITTING", "FACTORING", "MOMENTS", "RUNNING")
    parser.add_argument("--rates", type=arguments.positive, nargs=5, metavar=names)
    options = parser.parse_args()
    rates = Rates(*options.rates) if options.rates else measured(options.rounds)
    print(f"rates of one core: search {rates.plain / 1e6:.0f} million weights a second; multiply-adds a second, 1e9: "
          f"fitting {rates.fit / 1e9:.1f}, factoring {rates.factor / 1e9:.1f}, moments {rates.moments / 1e9:.1f}, "
          f"running {rates.run / 1e9:.1f}\n")  # fmt: skip
    work(rates, options.tokens)
    times(rates, options)


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def head(*names: str) -> None:
    row(*names)
    row(*["---"] * len(names))


def work(rates: Rates, n_tokens: int) -> None:
    """Core hours, memory and traffic."""
    head("model", "weights, 1e9", "source", "Q4_K_M", "search, core h", "reading, core h", "moments, core h",
         "fitting, core h", "moments of a layer", "handed over", "an expert in hand")  # fmt: skip
    for model in MODELS:
        n = sum(m.n_weights for m in model.matrices)
        spent = core_hours(model, rates, n_tokens)
        sizes = (gib(nbytes) for nbytes in (moments_of_a_layer(model), handed_over(model), case(model)))
        core = (f"{spent[what]:.2f}" for what in ("plain", "reading", "moments", "fitting"))
        row(model.name, f"{n / 1e9:.1f}", gib(n * model.bytes_per_weight), gib(n * BPW / 8), *core, *sizes)
    for what, each in (("search", BYTES_PER_WEIGHT), ("fitting", bytes_per_weight(Effort.BALANCED))):
        print(f"a worker: {gib(WORKER_NBYTES)} and {gib(SLAB_WEIGHTS * each)} a thread, {what}")
    print()


def times(rates: Rates, options: argparse.Namespace) -> None:
    """Wall time by machines, and the floor that storage and links set. For gradients layers are read there and back."""
    head("model", "machines", "search", "floor of the storage", "gradients", "reading and moments", "fitting",
         "floor of the command's link", "a fitted run")  # fmt: skip
    for model in MODELS:
        n = sum(m.n_weights for m in model.matrices)
        spent = {what: 3600 * value / options.cores for what, value in core_hours(model, rates, options.tokens).items()}
        storage = n * (model.bytes_per_weight + BPW / 8) / options.disk
        taped = spent["reading"] * TAPED / options.tokens * rates.run / BACK
        for machines in MACHINES:
            back = max(relayed(taped, model.n_layer, machines, TAPED), 2 * n * model.bytes_per_weight / options.disk)
            text = relayed(spent["reading"] + spent["moments"], model.n_layer, machines, options.tokens)
            link = 0.0 if machines == 1 else handed_over(model) / options.network
            fitting = spent["fitting"] / machines
            cells = max(spent["plain"] / machines, storage), storage, back, text, fitting, link
            row(model.name, str(machines), *map(hours, cells), hours(back + text + max(fitting, storage, link)))


def relayed(seconds: float, n_layer: int, machines: int, n_tokens: int) -> float:
    """Time of all layers, a layer a machine at once; each begins a chunk behind the one before it."""
    n_chunk = n_tokens / N_CTX
    at_once = min(machines, n_layer)
    return seconds / n_layer * -(-n_layer // at_once) * (1 + (at_once - 1) / n_chunk)


if __name__ == "__main__":
    arguments.run(main)
