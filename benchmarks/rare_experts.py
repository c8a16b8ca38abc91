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

import numpy as np
from fidelity import Judge
from numpy.typing import NDArray
from side_by_side import ROOT

import quant
from ggufkit.formats.text import shipped_text
from ggufkit.recipes.plan import PlannedTensor
from ggufkit.workflows.effort import shapes_of
from ggufkit.workflows.evidence import Corpus
from ggufkit.workflows.fit import ImportanceEncoder
from ggufkit.workflows.gather import SumsObserver, observe_text
from ggufkit.workflows.quantize import QuantizeSettings, prepare, quantize
from quant.importance import PRIOR_TOKENS, InputSums, importance

SOURCE = ROOT / "models" / "tiny-mixtral"
PRIORS = (0.0, 16.0, 64.0, PRIOR_TOKENS)
N_CTX = 128


class WithPrior(ImportanceEncoder):
    """The encoder of the effort fast with sums that are given and another prior."""

    def __init__(self, covers: dict[str, tuple[int, int]], corpus: Corpus, sums: dict[str, InputSums], prior: float):
        super().__init__(covers, corpus)
        self._means = {name: self._mean(one, prior) for name, one in sums.items()}

    @staticmethod
    def _mean(sums: InputSums, prior: float) -> NDArray[np.float32]:
        mean = importance(sums, prior_tokens=prior)
        if not prior:  # an expert that was never used: ones, as llama-quantize has it
            mean[sums.counts == 0] = 1.0
        return mean

    def __call__(self, planned: PlannedTensor, expert: int, w: NDArray[np.float32]) -> NDArray[np.uint8]:
        known = self._means.get(planned.name) if planned.qtype.is_quantized else None
        return quant.quantize(w, planned.qtype, importance=None if known is None else known[expert])


def draw(base: Path, n_tokens: int, seed: int, options: argparse.Namespace) -> dict[str, InputSums]:
    """Sums of `n_tokens` tokens from a place of the calibration text that the seed chooses."""
    observer, text = SumsObserver(), shipped_text("calibration.txt")
    skip = int(np.random.default_rng([n_tokens, seed]).integers(0, 200_000))
    observe_text(base, text, observer, n_tokens=n_tokens, skip_tokens=skip, n_ctx=N_CTX, threads=options.threads)
    return observer.sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default="Q2_K,Q3_K_S,Q4_K_S")
    parser.add_argument("--tokens", default="512,1024,2048,8192")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base, output = Path(folder) / "base.gguf", Path(folder) / "out.gguf"
        quantize(QuantizeSettings(source=SOURCE, output=base, recipe="BF16", threads=options.threads))
        judge = Judge(base, options.chunks, options.threads)
        covers = shapes_of(prepare(QuantizeSettings(source=base, output=output)).model)
        corpus = Corpus(base, "")
        print("KL divergence, of that without a prior: median of the draws (worst)")
        print(f"{'tokens':>8} {'rare':>6} {'type':8}" + "".join(f"{prior:>9g} tokens" for prior in PRIORS[1:]))
        for n_tokens in map(int, options.tokens.split(",")):
            sums = [draw(base, n_tokens, seed, options) for seed in range(options.draws)]
            rare = statistics.mean(rare_experts(one) for one in sums)
            for type_name in options.types.split(","):
                ratios = []
                for one in sums:
                    kld = []
                    for prior in PRIORS:
                        quantize(QuantizeSettings(
                            source=base, output=output, recipe=type_name, threads=options.threads, force=True,
                            fitting=WithPrior(covers, corpus, one, prior), provenance=False,
                        ))  # fmt: skip
                        kld.append(float(judge.scores(output).kld.mean()))
                    ratios.append([value / kld[0] for value in kld[1:]])
                shown = (
                    f"{statistics.median(column):9.3f} ({max(column):.3f})" for column in zip(*ratios, strict=True)
                )
                print(f"{n_tokens:>8} {rare:>6.1f} {type_name:8}" + "".join(shown), flush=True)


def rare_experts(sums: dict[str, InputSums]) -> int:
    """Experts of all layers that fewer than 64 tokens reached."""
    return sum(int((one.counts < 64).sum()) for name, one in sums.items() if name.endswith("ffn_gate_exps.weight"))


if __name__ == "__main__":
    main()
