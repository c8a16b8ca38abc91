"""How much error feedback can give on a model, and how much of it our encoder gets, by kind of projection.

Run it: python benchmarks/limits.py [MODEL …] [--type Q4_0] [--tokens 51200] [--layers 3] [--rows 512] [--threads 2]

An error in one column can be made good by the columns that follow, as far as their inputs go together with its own.
With H = A D Aᵀ their second moments, rounding leaves an error of Σ H[j, j] of a step's square, and feedback,
where it is perfect and steps are as they were, Σ D[j]: their ratio is the limit, which model and text set.

MODEL is a dense one of benchmarks/models. Layers are spread over it, rows over each matrix. Moments are of four fifths
of the text, and errors are told on the fifth left over: of llama.cpp's encoder with importance and of ours, which
refines levels and scales, too, and so may go below the limit.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import numpy as np
from numpy.typing import NDArray
from swaps import evidence_of, kind_of

import models
import quant
from ggufkit.architectures.source import open_source
from ggufkit.fitting.encoders import REFINE_ROUNDS, Effort, encode_fitted, fits
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.moments import ExpertEvidence
from ggufkit.formats.model import Model
from quant import _ggml, feedback

DENSE = ("smollm2", "qwen2.5-coder")


class Errors(NamedTuple):
    """Of one matrix's products, on held-out text."""

    name: str
    limit: float
    theirs: float
    ours: float


def sampled(n_layer: int, n: int) -> frozenset[int]:
    """Numbers of n layers, none of them the first or the last where it can be helped."""
    return frozenset(int(n_layer * (i + 0.5) / n) for i in range(n))


def limit_of(known: ExpertEvidence) -> float:
    moments, factors = known.curve.moments, known.curve.factor
    diagonals = (np.diagonal(each, axis1=1, axis2=2).sum() for each in (factors, moments))
    return float(next(diagonals) / next(diagonals))


def theirs(w: NDArray[np.float32], qtype: quant.QuantType, importance: NDArray[np.float32]) -> NDArray[np.uint8]:
    out = np.empty((len(w), qtype.row_nbytes(w.shape[1])), np.uint8)
    _ggml.quantize_chunk(qtype.ggml_type, w, importance, out)
    return out


def errors(model: Model, evidence: Evidence, qtype: quant.QuantType, n_rows: int) -> Iterator[Errors]:
    for tensor in model.tensors:
        known = evidence.of_expert(tensor.name, 0) if tensor.name in evidence.shapes else None
        if known is None or known.held_out is None or not fits(qtype, known.curve.width):
            continue
        w = np.ascontiguousarray(tensor.rows(0, 0, tensor.n_rows)[:: max(1, tensor.n_rows // n_rows)])
        forms = theirs(w, qtype, known.importance), encode_fitted(w, qtype, known, REFINE_ROUNDS[Effort.BALANCED])[0]
        off = [float(feedback.row_errors(w, form, qtype, known.held_out).sum()) for form in forms]
        yield Errors(tensor.name, limit_of(known), *off)


def by_kind(found: Iterator[Errors]) -> None:
    """Print them, and what they are on average over the layers."""
    of_kind = defaultdict(list)
    for one in found:
        said(one.name, [one])
        of_kind[kind_of(one.name)].append(one)
    for kind, several in of_kind.items():
        said(f"all {kind}", several)


def said(what: str, several: list[Errors]) -> None:
    limit, share = np.mean([(one.limit, one.ours / one.theirs) for one in several], axis=0)
    print(f"{what:32} limit {limit:.2f}, ours / llama.cpp's {share:.2f}", flush=True)


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument(
        "models", nargs="*", type=arguments.one_of("dense model", DENSE), default=DENSE, metavar="MODEL"
    )
    parser.add_argument("--type", default="Q4_0")
    parser.add_argument("--tokens", type=arguments.count, default=51_200)
    parser.add_argument("--layers", type=arguments.count, default=3)
    parser.add_argument("--rows", type=arguments.count, default=512)
    parser.add_argument("--threads", type=arguments.count, default=2)
    options = parser.parse_args()
    qtype = quant.quant_type(options.type)
    for name in options.models:
        source = models.original(name)
        with open_source(source) as model:
            layers = sampled(model.hparams.n_layer, options.layers)
            evidence = evidence_of(model, source, options.tokens, options.threads, layers)
            by_kind(errors(model, evidence, qtype, options.rows))


if __name__ == "__main__":
    arguments.run(main)
