"""Experts that calibration hardly saw: does leaning on their layer help on held-out text, and does it ever hurt?

Run it: python benchmarks/rare_experts.py [--types Q2_K,Q3_K_S,Q4_K_S] [--tokens 512,1024,2048,8192] [--draws 4]
The shipped model is calibrated on few tokens, drawn from other places of the text each time. Each file is encoded with
the same sums and another prior: tokens of the layer's mean that are added to every expert's own. 0 is llama-imatrix's
way. Prints the experts that fewer than 64 tokens reached, and the mean KL divergence on evaluation text as a ratio to
that without a prior: the median over the draws, and the worst of them.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import numpy as np
from fidelity import judged_model
from numpy.typing import NDArray

import quant
from ggufkit.architectures.source import open_source
from ggufkit.encoding.job import prepare
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.encoders import ImportanceEncoder
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.fitting.sums import SumsObserver, wants_block_weights
from ggufkit.formats.text import shipped_text
from ggufkit.recipes.plan import PlannedTensor
from ggufkit.workflows.quantize import encode
from quant.importance import PRIOR_TOKENS, InputSums, importance

PRIORS = (0.0, 16.0, 64.0, PRIOR_TOKENS)
N_CTX = 128


class WithPrior(ImportanceEncoder):
    """The encoder of the effort fast with sums that are given and another prior."""

    def __init__(self, evidence: Evidence, sums: dict[str, InputSums], prior: float):
        super().__init__(evidence)
        self._means = {name: self._mean(one, prior) for name, one in sums.items()}

    @staticmethod
    def _mean(sums: InputSums, prior: float) -> NDArray[np.float32]:
        mean = importance(sums, prior_tokens=prior)
        if not prior:  # an expert that was never used: ones, as llama-quantize has it
            mean[sums.counts == 0] = 1.0
        return mean

    def __call__(
        self, planned: PlannedTensor, expert: int, w: NDArray[np.float32], first: int = 0
    ) -> NDArray[np.uint8]:
        known = self._means.get(planned.name) if planned.qtype.is_quantized else None
        return quant.quantize(w, planned.qtype, importance=None if known is None else known[expert])


def draw(base: Path, n_tokens: int, seed: int, options: argparse.Namespace) -> dict[str, InputSums]:
    """Sums of `n_tokens` tokens from a place of the calibration text that the seed chooses."""
    observer, text = SumsObserver(wants_block_weights), shipped_text("calibration.txt")
    skip = int(np.random.default_rng([n_tokens, seed]).integers(0, 200_000))
    corpus = Corpus(base, text, n_tokens, N_CTX, options.threads, skip_tokens=skip, spread=False)
    WholeModel(corpus).observe(observer)
    return observer.sums


class Bench:
    """The shipped model, its judge, and how far files made with other priors are from it."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.options, self.output = options, folder / "out.gguf"
        self.base, self.judge, self.covers = judged_model(folder, options)

    def ratios(self, sums: dict[str, InputSums], type_name: str) -> list[float]:
        """KL divergence with each prior, of that without."""
        evidence = Evidence(WholeModel(Corpus(self.base, "")), self.covers)
        kld = [self._kld(WithPrior(evidence, sums, prior), type_name) for prior in PRIORS]
        return [value / kld[0] for value in kld[1:]]

    def _kld(self, encoder: WithPrior, type_name: str) -> float:
        settings = QuantizeSettings(source=self.base, output=self.output, recipe=type_name, force=True,
                                    threads=self.options.threads, provenance=False)  # fmt: skip
        with open_source(self.base) as model:
            encode(prepare(settings, model, encoder), encoder)
        return float(self.judge.scores(self.output).kld.mean())

    def show(self, n_tokens: int) -> None:
        """A line for every type."""
        sums = [draw(self.base, n_tokens, seed, self.options) for seed in range(self.options.draws)]
        rare = statistics.mean(rare_experts(one) for one in sums)
        for type_name in self.options.types:
            columns = zip(*(self.ratios(one, type_name) for one in sums), strict=True)
            shown = (f"{statistics.median(column):9.3f} ({max(column):.3f})" for column in columns)
            print(f"{n_tokens:>8} {rare:>6.1f} {type_name:8}" + "".join(shown), flush=True)


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--types", type=arguments.listed(arguments.mixture), default="Q2_K,Q3_K_S,Q4_K_S")
    parser.add_argument("--tokens", type=arguments.listed(arguments.count), default="512,1024,2048,8192")
    parser.add_argument("--draws", type=arguments.count, default=4)
    parser.add_argument("--chunks", type=arguments.at_least(4), default=24)
    parser.add_argument("--threads", type=arguments.count, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options)
        print("KL divergence, of that without a prior: median of the draws (worst)")
        print(f"{'tokens':>8} {'rare':>6} {'type':8}" + "".join(f"{prior:>9g} tokens" for prior in PRIORS[1:]))
        for n_tokens in options.tokens:
            bench.show(n_tokens)


def rare_experts(sums: dict[str, InputSums]) -> int:
    """Experts of all layers that fewer than 64 tokens reached."""
    return sum(int((one.counts < 64).sum()) for name, one in sums.items() if name.endswith("ffn_gate_exps.weight"))


if __name__ == "__main__":
    arguments.run(main)
