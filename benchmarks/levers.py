"""What each lever of fitting buys on held-out text, with the types held: KL divergence, one run.

Run it: python benchmarks/levers.py [--model MODEL] [--types Q2_K,Q3_K_S,Q4_K_S] [--levers "weighed,rows together"]
                                    [--tokens 100000] [--chunks 48] [--threads 2]

MODEL is the shipped one, or as for benchmarks/fidelity.py. Shares are of the first lever that is run.

    importance      scales searched with mean squared inputs, nothing else (--effort fast)
    flat            error feedback, scales of a super-block searched without importance when it is reached
    diagonal        the same, searched with mean squared inputs, the diagonal of H
    cost            the same, searched with 1 / U[j, j]², what a column's error costs after the columns behind it
    2 rounds        and levels and scales refined
    judged          and each row stored as fitted only where held-out text says so
    all the text    not judged, but fitted on what was held out, too
    weighed         and each token counted for what an error of its products does to the predictions
    rows together   and each row's errors made good by others that the predictions look at with it (--effort balanced)
    16 rounds       the same with up to 16 rounds (--effort best)
"""

import copy
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import numpy as np
from fidelity import TINY, found, judged_model
from numpy.typing import NDArray

import quant
from ggufkit.architectures.source import open_source
from ggufkit.encoding.job import prepare
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.couplings import groups_of
from ggufkit.fitting.encoders import Effort, FittedEncoder, encoder_for
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.fitting.weighing import weigher
from ggufkit.formats.text import shipped_text
from ggufkit.recipes.plan import PlannedTensor
from ggufkit.workflows.fit_settings import N_TOKENS
from ggufkit.workflows.quantize import encode
from quant import feedback
from quant.curvature import Curvature

LEVERS = (
    "importance", "flat", "diagonal", "cost", "2 rounds", "judged", "all the text", "weighed", "rows together",
    "16 rounds",
)  # fmt: skip


class Diagonal(Curvature):
    """Searches scales with the diagonal of H."""

    @property
    def column_cost(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(np.diagonal(self.moments, axis1=1, axis2=2).reshape(-1))


class Variant(FittedEncoder):
    """Error feedback on four fifths of the text, with some levers left out."""

    def __init__(self, evidence: Evidence, *, search: str, n_refine: int, judged: bool = False) -> None:
        super().__init__(evidence, Effort.BALANCED)
        self._search, self._n_refine, self._judged = search, n_refine, judged

    def __call__(
        self, planned: PlannedTensor, expert: int, w: NDArray[np.float32], first: int = 0
    ) -> NDArray[np.uint8]:
        known = self.evidence.of_expert(planned.name, expert) if planned.qtype.is_quantized else None
        if known is None:
            return quant.quantize(w, planned.qtype)
        curve = known.curve
        if self._search == "diagonal":
            curve = Diagonal(curve.moments, curve.order, curve.factor)
        weighted = self._search != "flat"
        fitted = feedback.encode(w, planned.qtype, curve, weighted=weighted, n_refine=self._n_refine)
        if not self._judged:
            return fitted
        plain = quant.quantize(w, planned.qtype, importance=known.importance)
        errors = (feedback.row_errors(w, form, planned.qtype, known.held_out) for form in (fitted, plain))
        return np.where((next(errors) < next(errors))[:, None], fitted, plain)


def variants(evidence: Evidence, weighed: Evidence) -> dict[str, object]:
    """Encoders by name; `weighed` is evidence whose tokens count for what they do."""
    alone = copy.copy(weighed)
    alone.groups = {}
    return {
        "importance": encoder_for(Effort.FAST, evidence),
        "flat": Variant(evidence, search="flat", n_refine=0),
        "diagonal": Variant(evidence, search="diagonal", n_refine=0),
        "cost": Variant(evidence, search="cost", n_refine=0),
        "2 rounds": Variant(evidence, search="cost", n_refine=2),
        "judged": Variant(evidence, search="cost", n_refine=2, judged=True),
        "all the text": encoder_for(Effort.BALANCED, evidence),
        "weighed": encoder_for(Effort.BALANCED, alone),
        "rows together": encoder_for(Effort.BALANCED, weighed),
        "16 rounds": encoder_for(Effort.BEST, weighed),
    }


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--model", type=arguments.any_model, default=str(TINY))
    parser.add_argument("--levers", type=arguments.listed(arguments.one_of("lever", LEVERS)), default=",".join(LEVERS))
    parser.add_argument("--tokens", type=arguments.count, default=N_TOKENS)
    parser.add_argument("--types", type=arguments.listed(arguments.mixture), default="Q2_K,Q3_K_S,Q4_K_S")
    parser.add_argument("--chunks", type=arguments.at_least(4), default=48)
    parser.add_argument("--threads", type=arguments.count, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.gguf"
        base, judge, covers = judged_model(Path(folder), options, found(options.model))
        corpus = Corpus(base, shipped_text("calibration.txt"), n_tokens=options.tokens, threads=options.threads)
        evidence = Evidence(WholeModel(corpus), covers, sums=True)
        with open_source(base) as model:
            groups = groups_of(model)
            weighed = Evidence(
                WholeModel(corpus), covers, weigh=weigher(corpus, model, groups), groups=groups
            )  # fmt: skip
        for one in (evidence, weighed):
            for names in one.walks:
                one.hold(names)
        for type_name in options.types:
            first = None
            for label, encoder in variants(evidence, weighed).items():
                if label not in options.levers:
                    continue
                started = time.perf_counter()
                with open_source(base) as model:
                    settings = QuantizeSettings(source=base, output=output, recipe=type_name, threads=options.threads,
                                                force=True, provenance=False)  # fmt: skip
                    encode(prepare(settings, model, encoder), encoder)
                seconds = time.perf_counter() - started
                kld = judge.scores(output).kld.mean(axis=1)
                first = kld if first is None else first
                ratio, error = kld.mean() / first.mean(), np.std(kld - first, ddof=1) / np.sqrt(len(kld)) / first.mean()
                print(f"{type_name:8} {label:16} kld {kld.mean():.5f}  {ratio:5.3f} ± {error:.3f} of the first"
                      f"   {seconds:5.1f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    arguments.run(main)
