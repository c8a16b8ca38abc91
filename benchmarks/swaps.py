"""Whether types that were chosen by predicted cost get better by measuring: what swaps can gain at most.

Run it: python benchmarks/swaps.py [MODEL] [--like Q3_K_M] [--tokens 10240] [--more 51200] [--chunks 8] [--plans 12]
                                  [--threads 2]

MODEL is a dense one of benchmarks/models, or a 16-bit GGUF. Types are chosen for the bytes of --like.

    ceiling  no model runs: costs are thrown off by random factors, of each tensor or of each part (a kind of projection
             in a third of the layers), and the best plan by these costs takes the place of ours. What it saves is what
             the best of all swaps could save if predictions were wrong by so much
    more     costs of more text: how far they are from ours, and what the best plan by them saves
    kinds    all tensors of one kind in the next coarser type, nothing else changed: how much the divergence grows, as
             a share of the growth that was predicted; over that of all kinds. One standard error, chunks paired
    plans    other plans of the same bytes, best by costs that were thrown off by a factor of 2.2 (one sigma) a part:
             Spearman's correlation of predicted and measured divergence, and the slope of the measured growth
    swapped  best by costs that the kinds' factors have put right: predicted saving, and measured on the same chunks

Half of the chunks are prose, half code, none of them calibrated on.
"""

import functools
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import numpy as np
from fidelity import Judge
from numpy.typing import NDArray

import models
import quant
from ggufkit.architectures.source import open_source
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.cost import shapes_of
from ggufkit.fitting.encoders import encode_fitted, fits
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.sensitivity import measure_costs
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.fitting.weighing import weigher
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.model import Model
from ggufkit.formats.text import CALIBRATION_TEXT, shipped_text
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.quantizable import layer_of
from ggufkit.recipes.search import Found, Problem, Sensitivity, Target, search
from ggufkit.workflows.quantize import quantize
from quant.allocate import Choice, Group, least_loss

Types = Mapping[str, str]
Costs = Mapping[str, Sensitivity]
Measured = Callable[[Types], NDArray[np.float64]]  # mean divergence of each chunk
Factor = Callable[[str], float]
SIGMAS = (0.2, 0.3, 0.5, 0.8)
N_DRAWS = 6
ROWS = 2048  # are encoded at a time


class Patched:
    """A 16-bit copy of the model; its weights are what some types hold of them."""

    def __init__(self, path: Path, model: Model, evidence: Evidence) -> None:
        self.path, self._evidence = path, evidence
        self._tensors = {tensor.name: tensor for tensor in model.tensors}
        file = GgufFile.open(path)
        self._at = {ref.name: ref.offset for ref in file.tensors}
        file.close()
        self._now: dict[str, str] = {}

    def store(self, types: Types) -> None:
        with self.path.open("r+b") as out:
            for name, type_name in types.items():
                if self._now.get(name) != type_name:
                    out.seek(self._at[name])
                    out.write(self._rows(name, type_name))
                    self._now[name] = type_name

    @functools.cache  # noqa: B019  there is one of these, to the end
    def _rows(self, name: str, type_name: str) -> bytes:
        """As the file with these types would hold them, in BF16."""
        tensor, qtype, rows = self._tensors[name], quant.quant_type(type_name), []
        for expert in range(tensor.n_expert):
            known = self._evidence.of_expert(name, expert, whole=True)
            for first in range(0, tensor.n_rows, ROWS):
                w = tensor.rows(expert, first, min(first + ROWS, tensor.n_rows))
                if known is None or not fits(qtype, known.curve.width):
                    blocks = quant.quantize(w, qtype)
                else:
                    blocks, _ = encode_fitted(w, qtype, known, 2)
                rows.append(quant.quantize(quant.dequantize(blocks, qtype), quant.quant_type("BF16")))
        return np.concatenate(rows).tobytes()


class Plans:
    """Plans near the one that was found: no tensor more than one type away, no byte more."""

    def __init__(self, found: Found) -> None:
        self.types, self._at = found.types, found.allocation.chosen
        self._groups, self._budget = found.groups, found.allocation.nbytes
        self.names = [group.name for group in self._groups]
        self.kinds = list(dict.fromkeys(map(kind_of, self.names)))
        self._n_layer = 1 + max(map(layer_of, self.names))

    def part(self, name: str) -> str:
        return f"{kind_of(name)} {max(0, layer_of(name)) * 3 // self._n_layer}"

    def best(self, factor: Factor) -> Types:
        """Of least loss if every cost were that many times what it was predicted to be."""
        groups = []
        for group, at in zip(self._groups, self._at, strict=True):
            near = group.choices[max(0, at - 1) : at + 2]
            scaled = tuple(Choice(c.name, c.nbytes, c.loss * factor(group.name)) for c in near)
            groups.append(Group(group.name, scaled))
        chosen = least_loss(groups, self._budget).chosen
        return {group.name: group.choices[i].name for group, i in zip(groups, chosen, strict=True)}

    def coarser(self, kind: str) -> Types:
        """One type down for all tensors of a kind that have one."""
        steps = [at - (kind_of(g.name) == kind and at > 0) for g, at in zip(self._groups, self._at, strict=True)]
        return {group.name: group.choices[i].name for group, i in zip(self._groups, steps, strict=True)}

    def predicted(self, types: Types, factor: Factor = lambda _: 1.0) -> float:
        return sum(c.loss * factor(g.name) for g in self._groups for c in g.choices if c.name == types[g.name])

    def saving(self, factor: Factor) -> float:
        """Of the best plan by these costs, as a share of what ours has by them."""
        return 1 - self.predicted(self.best(factor), factor) / self.predicted(self.types, factor)


def kind_of(name: str) -> str:
    return name.split(".")[2] if layer_of(name) >= 0 else name.partition(".")[0]


def thrown(key: Callable[[str], str], names: Sequence[str], sigma: float, seed: int) -> Factor:
    """Random factors, one for each key."""
    rng = np.random.default_rng(seed)
    of_key = {each: float(np.exp(sigma * rng.standard_normal())) for each in dict.fromkeys(map(key, names))}
    return lambda name: of_key[key(name)]


def evidence_of(
    model: Model, source: Path, n_tokens: int, threads: int, layers: frozenset[int] | None = None
) -> Evidence:
    """Of all tensors, or of those of some layers, gathered in one reading."""
    corpus = Corpus(source, shipped_text(CALIBRATION_TEXT), n_tokens=n_tokens, threads=threads)
    shapes = {name: shape for name, shape in shapes_of(model).items() if layers is None or layer_of(name) in layers}
    return Evidence(WholeModel(corpus), shapes, max_nbytes=1 << 40, weigh=weigher(corpus, model))


def ceiling(plans: Plans) -> None:
    for what, key in (("tensor", str), ("part", plans.part)):
        for sigma in SIGMAS:
            savings = [plans.saving(thrown(key, plans.names, sigma, seed)) for seed in range(N_DRAWS)]
            print(
                f"ceiling  costs of each {what:6} off by a factor of {np.exp(sigma):.2f}: the best plan has "
                f"{np.mean(savings):6.2%} less ({min(savings):.2%} to {max(savings):.2%})"
            )


def kinds(plans: Plans, measured: Measured) -> dict[str, float]:
    """What the costs of each kind have to be multiplied with, all of them alike left out."""
    ours, changes, said = measured(plans.types), {}, {}
    for kind in plans.kinds:
        said[kind] = plans.predicted(plans.coarser(kind)) - plans.predicted(plans.types)
        if said[kind] > 0:  # some have no coarser type
            changes[kind] = measured(plans.coarser(kind)) - ours
    common = sum(change.mean() for change in changes.values()) / sum(said.values())
    factors = {kind: change / said[kind] / common for kind, change in changes.items()}
    for kind, factor in factors.items():
        print(
            f"kinds    {kind:12} predicted {said[kind]:.5f}, measured {changes[kind].mean():.5f}: "
            f"{factor.mean():.2f} ± {factor.std(ddof=1) / np.sqrt(len(factor)):.2f} of all kinds' {common:.2f}",
            flush=True,
        )
    return {kind: factor.mean() for kind, factor in factors.items()}


def others(plans: Plans, measured: Measured, n: int) -> None:
    ours = measured(plans.types).mean()
    rows = []
    for seed in range(n):
        types = plans.best(thrown(plans.part, plans.names, 0.8, seed))
        moved = sum(types[name] != plans.types[name] for name in types)
        said, seen = plans.predicted(types) / plans.predicted(plans.types) - 1, measured(types).mean() / ours - 1
        print(f"plans    {moved:3d} types changed: predicted {said:+.1%}, measured {seen:+.1%}", flush=True)
        rows.append((said, seen))
    said, seen = np.array(rows).T
    ranks = np.corrcoef(said.argsort().argsort(), seen.argsort().argsort())[0, 1]
    print(f"plans    rank correlation {ranks:.2f}, slope {said @ seen / (said @ said):.2f}")


def more(plans: Plans, ours: Costs, theirs: Costs) -> None:
    """What would have been chosen with more text."""
    ratio = {name: theirs[name].alone(plans.types[name]) / ours[name].alone(plans.types[name]) for name in plans.names}
    spread = np.std([np.log(ratio[name]) for name in plans.names])
    print(f"more     costs differ by a factor of {np.exp(spread):.2f} (one sigma); the best plan by them has "
          f"{plans.saving(ratio.__getitem__):.2%} less")  # fmt: skip


def swapped(plans: Plans, measured: Measured, factor: Factor) -> None:
    ours = measured(plans.types)
    change = (measured(plans.best(factor)) - ours) / ours.mean()
    error = change.std(ddof=1) / np.sqrt(len(change))
    print(f"swapped  by the kinds' factors {-plans.saving(factor):.2%}, measured {change.mean():+.2%} ± {error:.2%}")


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("model", nargs="?", type=arguments.any_model, default="smollm2")
    parser.add_argument("--like", type=arguments.mixture, default="Q3_K_M")
    parser.add_argument("--tokens", type=arguments.count, default=10_240)
    parser.add_argument(
        "--more", type=arguments.count_or_0, default=51_200, help="tokens whose costs are held against ours; 0 for none"
    )
    parser.add_argument("--chunks", type=arguments.at_least(4), default=8)
    parser.add_argument("--plans", type=arguments.count, default=12)
    parser.add_argument("--threads", type=arguments.count, default=2)
    options = parser.parse_args()
    source = models.original(options.model) if options.model in models.NAMES else Path(options.model)
    with tempfile.TemporaryDirectory() as folder, open_source(source) as model:
        evidence = evidence_of(model, source, options.tokens, options.threads)
        costs = measure_costs(model, evidence)
        plan_of = functools.partial(make_plan, model, importance=shapes_of(model))
        tensors = [tensor for tensor in model.tensors if tensor.name in costs]
        target = Target(nbytes=plan_of(options.like).file_nbytes)
        plans = Plans(search(Problem(tensors, costs, plan_of, "searched"), target))
        ceiling(plans)
        if options.more:
            more(plans, costs, measure_costs(model, evidence_of(model, source, options.more, options.threads)))
        copies = [Path(folder) / name for name in ("base.gguf", "patched.gguf")]
        for copy in copies:
            quantize(QuantizeSettings(source=source, output=copy, recipe="BF16", threads=options.threads))
        judge, patched = Judge(copies[0], options.chunks, options.threads), Patched(copies[1], model, evidence)

        known: dict[str, NDArray[np.float64]] = {}

        def measured(types: Types) -> NDArray[np.float64]:
            key = str(sorted(types.items()))
            if key not in known:
                patched.store(types)
                known[key] = judge.scores(patched.path).kld.mean(axis=1)
            return known[key]

        print(f"ours     predicted {plans.predicted(plans.types):.5f}, measured {measured(plans.types).mean():.5f}")
        factors = kinds(plans, measured)
        others(plans, measured, options.plans)
        swapped(plans, measured, lambda name: factors.get(kind_of(name), 1.0))


if __name__ == "__main__":
    arguments.run(main)
