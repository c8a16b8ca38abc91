"""How often the gate's tests are wrong, and how many chunks they save, by simulation. Seeded; numbers repeat.

    python benchmarks/gate_simulation.py                2,000 runs a row, about a minute
    python benchmarks/gate_simulation.py --runs 10000
    python benchmarks/gate_simulation.py --model        100 seeded gates of an honest Q6_K of the shipped model

A row is a kind of data whose true mean is `true` times the limit. A pass above 1 and a fail below 1 are errors; each
may happen in at most alpha = 5 % of the runs, whenever one looks. `fixed` is the usual one-sided t-test of the whole
budget, which is right only if nobody looks before; `peeked` is the same test looked at after every chunk.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments

from quant import confseq
from quant.stats import t_quantile

ALPHA = 0.05
N_CHUNK = 100  # the budget
N_TOKEN = 255  # of a chunk
Draw = Callable[[np.random.Generator, int], np.ndarray]


class Kind(NamedTuple):
    """draw gives (n_run, N_CHUNK) chunk means with true mean 1; clip None for the unbounded test."""

    name: str
    draw: Draw
    clip: float | None


def normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(1, 1.5, (n, N_CHUNK))


def heavy(rng: np.random.Generator, n: int) -> np.ndarray:
    """Student's t with 3 degrees of freedom: differences of likelihood with outliers."""
    return 1 + rng.standard_t(3, (n, N_CHUNK)) / np.sqrt(3) * 1.5


def kld(sigma: float, between: float) -> Draw:
    """Lognormal tokens; `between` is the spread of the logarithm of chunks."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        chunks = np.exp(rng.normal(0, between, (n, N_CHUNK)) - between**2 / 2)
        means = np.empty((n, N_CHUNK))
        for i in range(n):
            means[i] = np.exp(rng.normal(0, sigma, (N_CHUNK, N_TOKEN)) - sigma**2 / 2).mean(axis=1)
        return means * chunks

    return draw


def share(p: float, alike: float) -> Draw:
    """Shares of tokens with chance p; `alike` is the correlation of two tokens of a chunk."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        a = p * (1 / alike - 1)
        chance = rng.beta(a, a * (1 / p - 1), (n, N_CHUNK))
        return rng.binomial(N_TOKEN, chance) / N_TOKEN / p

    return draw


def rare(rng: np.random.Generator, n: int) -> np.ndarray:
    """All of the divergence in one chunk of twenty."""
    return 20.0 * (rng.random((n, N_CHUNK)) < 0.05)


def skewed(rng: np.random.Generator, n: int) -> np.ndarray:
    """Log-normal of sigma 1 with mean 1."""
    return np.exp(rng.normal(0, 1, (n, N_CHUNK)) - 0.5)


KINDS = (
    Kind("ln PPL ratio, normal", normal, None),
    Kind("ln PPL ratio, heavy tails", heavy, None),
    Kind("KL divergence, sigma 2", kld(2.0, 0.0), 4.0),
    Kind("KL divergence, sigma 2, unequal chunks", kld(2.0, 0.4), 4.0),
    Kind("other top token, 5 %", share(0.05, 0.005), 4.0),
    Kind("share of rare tokens, 1 %", share(0.01, 0.005), 8.0),
)
# What the tests do not hold for, shown at the limit and not counted among the error rates.
BEYOND = (Kind("KL divergence, in one chunk of twenty", rare, 4.0), Kind("ln PPL ratio, log-normal", skewed, None))
TRUTHS = (0.4, 0.7, 1.0, 1.5, 2.5)


def first(hits: np.ndarray) -> np.ndarray:
    """Position of the first true value of each row; N_CHUNK where there is none."""
    return np.where(hits.any(axis=1), hits.argmax(axis=1), N_CHUNK)


def simulate(kind: Kind, truth: float, n_run: int, seed: int) -> str:
    values = kind.draw(np.random.default_rng([seed, round(truth * 100)]), n_run)
    values = values * truth if kind.clip else values - 1 + truth
    looks = np.array([look(row, kind.clip) for row in values])  # (n_run, N_CHUNK)
    if kind.clip:  # as the gate: nothing passes whose own mean is beyond the limit
        looks[(looks > 0) & (np.cumsum(values, axis=1) / np.arange(1, N_CHUNK + 1) > 1)] = 0
    decided = first(looks != 0)
    outcome = looks[np.arange(n_run), np.minimum(decided, N_CHUNK - 1)]
    used = np.minimum(decided + 1, N_CHUNK)
    upper = fixed_upper(values)
    cells = (
        f"{kind.name:40} {truth:5.1f}",
        f"{100 * (outcome > 0).mean():6.1f} {100 * (outcome < 0).mean():6.1f}",
        f"{used.mean():7.1f} {100 * (1 - used.mean() / N_CHUNK):6.0f} %",
        f"{100 * (upper[:, -1] <= 1).mean():7.1f} {100 * (upper[:, 4:] <= 1).any(axis=1).mean():7.1f}",
    )
    return "  ".join(cells)


def look(values: np.ndarray, clip: float | None) -> np.ndarray:
    if clip is None:
        return confseq.unbounded_looks(values, 1.0, alpha_low=ALPHA, alpha_high=ALPHA, n_plan=N_CHUNK // 3)
    return confseq.bounded_looks(values, clip, 1.0, alpha_low=ALPHA, alpha_high=ALPHA)


def fixed_upper(values: np.ndarray) -> np.ndarray:
    """One-sided upper bounds of the usual t-test at every n, (n_run, N_CHUNK)."""
    n = np.arange(1, N_CHUNK + 1)
    mean = np.cumsum(values, axis=1) / n
    variance = np.maximum(np.cumsum(values**2, axis=1) / n - mean**2, 0) * n / np.maximum(n - 1, 1)
    quantiles = np.array([t_quantile(1 - 2 * ALPHA, max(1, i - 1)) for i in n])
    return mean + quantiles * np.sqrt(variance / n)


def simulate_all(n_run: int, seed: int) -> bool:
    """Print the table; whether all error rates hold."""
    print(f"{n_run} runs a row, budget {N_CHUNK} chunks of {N_TOKEN} scored tokens, alpha {100 * ALPHA:g} %")
    print(
        f"{'':40} {'true':>5}  {'pass %':>6} {'fail %':>6}  {'chunks':>7} {'saved':>8}  {'fixed %':>7} {'peeked %':>8}"
    )
    worst = 0.0
    for kind in KINDS:
        for truth in TRUTHS:
            line = simulate(kind, truth, n_run, seed)
            print(line, flush=True)
            pass_rate, fail_rate = (float(x) for x in line[48:].split()[:2])
            worst = max(worst, pass_rate if truth >= 1 else 0.0, fail_rate if truth <= 1 else 0.0)
    for kind in BEYOND:
        print(simulate(kind, 1.0, n_run, seed) + "  (beyond)", flush=True)
    print(f"largest error rate {worst:.1f} %, allowed {100 * ALPHA:g} %")
    return worst <= 100 * ALPHA


def gate_the_shipped_model(n_seed: int) -> bool:
    """Gates of an honest Q6_K with other orders of the same chunks, scored once; whether none raised an alarm."""
    from contextlib import ExitStack

    from ggufkit.encoding.settings import QuantizeSettings
    from ggufkit.proof.limits import GateConfig
    from ggufkit.proof.trial import Trial
    from ggufkit.workflows.compare import CompareSettings, Walk
    from ggufkit.workflows.quantize import quantize

    source = Path(__file__).resolve().parents[1] / "models" / "tiny-mixtral"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        files = {name: Path(folder) / f"{name}.gguf" for name in ("BF16", "Q6_K")}
        for name, path in files.items():
            quantize(QuantizeSettings(source=source, output=path, recipe=name))
        walk = Walk(CompareSettings(base=files["BF16"], candidate=files["Q6_K"], routers=False), stack)
        chunks = list(walk.scores(np.arange(walk.n_chunk)))
    outcomes: list[str] = []
    used: list[int] = []
    for seed in range(n_seed):
        config = GateConfig(seed=seed)
        order = np.random.default_rng(seed).permutation(len(chunks))[: config.chunks]
        trial = Trial(config, n_plan=len(order) // 3)
        while trial.is_open and trial.n_chunk < len(order):
            trial.add(chunks[order[trial.n_chunk]])
        used.append(trial.n_chunk)
        outcomes.append(max((check.outcome for check in trial.checks()), key=["pass", "inconclusive", "fail"].index))
    counts = {name: outcomes.count(name) for name in ("pass", "inconclusive", "fail")}
    print(f"{n_seed} gates of Q6_K of the shipped model: {counts}; chunks read {min(used)} to {max(used)}, "
          f"mean {np.mean(used):.1f} of {len(order)} allowed")  # fmt: skip
    return counts["fail"] == 0


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--runs", type=arguments.count, default=2000)
    parser.add_argument("--seed", type=arguments.count_or_0, default=0)
    parser.add_argument("--model", action="store_true", help="gate the shipped model with 100 seeds instead")
    args = parser.parse_args()
    holds = gate_the_shipped_model(100) if args.model else simulate_all(args.runs, args.seed)
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    arguments.run(main)
