"""What a tensor costs at a type, in nats: predicted from gradients, against what the running model says."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import quant
from ggufkit.architectures.source import open_source
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.cost import shapes_of
from ggufkit.fitting.couplings import groups_of
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.prober import Prober, Tried
from ggufkit.fitting.sensitivity import Subject, candidates, measure_costs
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.fitting.trial_encoding import REFINED, TABLE_REFINE, encoded, type_cost
from ggufkit.fitting.weighing import weigher
from ggufkit.formats.model import Model
from ggufkit.workflows.quantize import quantize
from quant import feedback

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "ggufkit" / "data" / "text" / "calibration.txt").read_text()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("sensitivity") / "stories.gguf"
    quantize(QuantizeSettings(source=ROOT / "models" / "stories260K", output=path, recipe="F32"))
    with open_source(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def evidence(model: Model) -> Evidence:
    corpus = Corpus(model.files[0].path, TEXT, n_tokens=20 * 256, n_ctx=256, threads=1)
    return Evidence(WholeModel(corpus), shapes_of(model), weigh=weigher(corpus, model))


def test_predicted_costs_are_what_the_model_says(model: Model, evidence: Evidence) -> None:
    """In proportion within a factor of 2 for nine tensors, from the embedding to the last layer; in nats within 2.5."""
    names = [f"blk.{layer}.{part}.weight" for layer in (0, 4) for part in ("attn_q", "attn_v", "attn_output", "ffn_up")]
    tensors = {t.name: t for t in model.tensors}
    ratios = []
    with closing(Prober(evidence.source.corpus, 8)) as prober:
        for name in ["token_embd.weight", *names]:
            subject = Subject(tensors[name], evidence)
            errors, nats = subject.costs()
            predicted = errors["Q4_0"] * nats
            tried = Tried(tensors[name], "Q4_0")
            tried.blocks.append(subject.encoded(0, tensors[name].rows(0, 0, tensors[name].n_rows), "Q4_0", 2))
            ratios.append(predicted / prober.kld({name: tried})[0])
    mean = np.exp(np.mean(np.log(ratios)))
    assert 0.5 < mean < 2.5, " ".join(f"{r:.2f}" for r in ratios)
    assert all(mean / 2 < ratio < mean * 2 for ratio in ratios), " ".join(f"{r:.2f}" for r in ratios)


def test_threads_change_no_cost(model: Model, evidence: Evidence) -> None:
    tensor = next(t for t in model.tensors if t.name == "blk.1.ffn_down.weight")
    with ThreadPoolExecutor(3) as pool:
        assert Subject(tensor, evidence).costs(pool.map) == Subject(tensor, evidence).costs()


def test_finer_types_cost_less(model: Model, evidence: Evidence) -> None:
    for name, cost in measure_costs(model, evidence).items():
        tensor = next(t for t in model.tensors if t.name == name)
        errors = [cost.alone(kind) for kind in ("Q4_0", "Q5_0", "Q8_0") if kind in candidates(tensor)]
        assert errors and all(later < 0.5 * earlier for earlier, later in itertools.pairwise(errors)), name


def test_a_cost_is_that_of_refined_rows(model: Model, evidence: Evidence) -> None:
    tensor = next(t for t in model.tensors if t.name == "blk.1.ffn_up.weight")
    known, w = evidence.of_expert(tensor.name, 0), tensor.rows(0, 0, tensor.n_rows)
    assert known is not None and len(w) >= 16 * REFINED
    moments = known.curve.moments  # what refinement makes less; on held-out text the model is too small for it to show

    def cost(_: slice, error: np.ndarray) -> float:
        return float(feedback.energies(error, moments).sum())

    for name in ("Q4_0", "Q5_1"):
        qtype = quant.quant_type(name)
        plain, refined = (
            cost(slice(None), quant.dequantize(encoded(w, name, known, n), qtype) - w) for n in (0, TABLE_REFINE)
        )
        assert abs(type_cost(w, name, known, cost) - refined) < 0.4 * (plain - refined)


def test_of_rows_that_are_not_fitted_a_cost_is_that_of_the_search(
    model: Model, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = evidence.source.corpus
    fast = Evidence(WholeModel(corpus), shapes_of(model), weigh=weigher(corpus, model), fitted=False)
    tensor = next(t for t in model.tensors if t.name == "blk.1.ffn_up.weight")
    monkeypatch.setattr("ggufkit.fitting.moments.curvature", lambda *_, **__: pytest.fail("nobody needs it"))
    errors, nats = Subject(tensor, fast).costs()
    moments = fast.of(tensor.name)
    assert moments is not None and fast.weights is not None
    known, w = moments.means_of(0).plain(), tensor.rows(0, 0, tensor.n_rows)
    rho = fast.weights.by_name[tensor.name].rows
    assert known.held_out is not None and nats > 0
    for name in ("Q4_0", "Q5_1"):
        qtype = quant.quant_type(name)
        error = quant.dequantize(quant.quantize(w, qtype, importance=known.importance), qtype) - w
        lost, whole = (float(rho @ feedback.energies(one, known.held_out)) for one in (error, w))
        assert errors[name] == pytest.approx(lost / whole, rel=0.1)  # by a sample of rows


def test_costs_do_not_count_on_rows_that_go_together(model: Model, evidence: Evidence) -> None:
    """Layers would look cheap beside an embedding, whose rows are not coupled."""
    corpus, groups = evidence.source.corpus, groups_of(model)
    together = Evidence(WholeModel(corpus), shapes_of(model), weigh=weigher(corpus, model, groups), groups=groups)
    tensor = next(t for t in model.tensors if t.name == "blk.1.attn_v.weight")
    (alone_errors, alone), (errors, nats) = (Subject(tensor, one).costs() for one in (evidence, together))
    assert together.coupling(tensor.name) is not None
    assert nats == pytest.approx(alone) and errors == pytest.approx(alone_errors)
