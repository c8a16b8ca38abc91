"""How much error feedback can give on a model, and how much of it our encoder gets, by kind of projection.

Run it: python benchmarks/limits.py [MODEL …] [--type Q4_0] [--tokens 51200] [--layers 3] [--rows 512] [--threads 2]

An error in one column can be made good by the columns that follow, as far as their inputs go together with its own.
With H = A D Aᵀ their second moments, rounding leaves an error of Σ H[j, j] of a step's square, and feedback,
where it is perfect and steps are as they were, Σ D[j]: their ratio is the limit, which model and text set.

Layers are spread over the model, rows over each matrix; of a mixture, the first expert stands for all. Moments are of
four fifths of the text, and errors are told on the fifth left over: of llama.cpp's encoder with importance and of ours,
which refines levels and scales, too, and so may go below the limit. Rows are kept in benchmarks/history/.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import arguments
import history
import numpy as np
from numpy.typing import NDArray
from swaps import kind_of

import models
import quant
from ggufkit.architectures.source import open_source
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.cost import shapes_of
from ggufkit.fitting.encoders import REFINE_ROUNDS, Effort, encode_fitted, fits
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.moments import ExpertEvidence
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.fitting.weighing import weigher
from ggufkit.formats.model import Model
from ggufkit.formats.text import CALIBRATION_TEXT, shipped_text
from ggufkit.recipes.quantizable import layer_of
from quant import _ggml, feedback


class Errors(NamedTuple):
    """Of one matrix, on held-out text, as shares of the energy of its products."""

    kind: str
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
        energy = feedback.energies(w, known.held_out).sum()
        off = [float(feedback.row_errors(w, form, qtype, known.held_out).sum() / energy) for form in forms]
        yield Errors(kind_of(tensor.name), limit_of(known), *off)
        print(f"{tensor.name:32} limit {limit_of(known):.2f}, ours / llama.cpp's {off[1] / off[0]:.2f}", flush=True)


def rows(name: str, qtype: quant.QuantType, found: Iterator[Errors], command: str) -> list[history.Row]:
    """One for each kind: errors and limits as they are on average over the layers."""
    of_kind = defaultdict(list)
    for each in found:
        of_kind[each.kind].append(each)
    made = []
    for kind, several in of_kind.items():
        ours, peer = ([getattr(each, whose) for each in several] for whose in ("ours", "theirs"))
        limit = np.mean([each.limit for each in several])
        made.append(history.Row(
            "limits", name, f"{qtype.name}, {kind}", "of the products' energy", "less", ours, peer, command,
            "ggml_quantize_chunk with importance", f"limit {limit:.2f}",
        ))  # fmt: skip
    return made


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("models", nargs="*", type=arguments.real_model, default=("smollm2", "qwen2.5-coder"))
    parser.add_argument("--type", default="Q4_0")
    parser.add_argument("--tokens", type=arguments.count, default=51_200)
    parser.add_argument("--layers", type=arguments.count, default=3)
    parser.add_argument("--rows", type=arguments.count, default=512)
    parser.add_argument("--threads", type=arguments.count, default=2)
    options = parser.parse_args()
    qtype, kind = quant.quant_type(options.type), history.machine()
    for name in options.models:
        source = models.original(name) if not name.endswith("-moe") else models.folder(name)
        with open_source(source) as model:
            layers = sampled(model.hparams.n_layer, options.layers)
            shapes = {each: shape for each, shape in shapes_of(model).items() if layer_of(each) in layers}
            corpus = Corpus(source, shipped_text(CALIBRATION_TEXT), n_tokens=options.tokens, threads=options.threads)
            evidence = Evidence(WholeModel(corpus), shapes, weigh=weigher(corpus, model))
            command = f"benchmarks/limits.py {name} --type {options.type} --tokens {options.tokens}"
            history.keep(
                history.path(kind), kind, rows(name, qtype, errors(model, evidence, qtype, options.rows), command)
            )


if __name__ == "__main__":
    arguments.run(main)
