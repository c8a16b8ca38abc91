"""How long the steps of a fitted run are thought to take, before they begin.

Knows shapes and `Rates`, assumed or measured here; what is left of either `progress.Steps` corrects on the way.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ggufkit.fitting.corpus import N_CTX, Corpus
from ggufkit.fitting.cost import EffortCost, shapes_of, taped_chunks, taped_tokens
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.keeping import AGAIN, AGAIN_TO_TRY
from ggufkit.fitting.rates import Rates, nearest
from ggufkit.fitting.sensitivity import sample_rows, tried_tensors
from ggufkit.fitting.sources.agreement import MAX_NBYTES as AGREEMENT_NBYTES
from ggufkit.fitting.walks import Shape, moments_nbytes, walk_nbytes, width_of
from ggufkit.formats.model import Model, ModelTensor
from ggufkit.recipes.plan import QuantPlan
from ggufkit.recipes.quantizable import layer_of

QUICK, WEIGHING, CALIBRATION = "quick file", "weighing tokens", "calibration"
TYPES, TRYING, ENCODING = "types", "trying types", "encoding"

_CHARS_A_TOKEN = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is going to be done.

    effort    that evidence is gathered for
    fitted    whether rows are encoded with error feedback
    plan      types that are encoded, given or guessed
    by_layer  whether the model is run layer by layer
    n_probe   chunks that a choice of types is tried on, None where types are given
    quick     whether the model that is run has to be made first
    again     walks whose moments have no place to wait in until types are known
    """

    model: Model
    corpus: Corpus
    cost: EffortCost
    effort: Effort
    plan: QuantPlan
    by_layer: bool
    fitted: bool
    n_probe: int | None = None
    quick: bool = False
    again: tuple[frozenset[str], ...] = ()

    @property
    def n_again(self) -> int:
        """Times that moments are asked for once they were gathered: when types are tried, and when they are encoded."""
        return 0 if self.n_probe is None else 1 + bool(self.n_probe)

    @property
    def n_tokens(self) -> float:
        """Of the text, as far as it reaches."""
        return tokens_of(self.corpus)


def tokens_of(corpus: Corpus) -> float:
    """Tokens of the text that are read, about."""
    return min(corpus.n_tokens or 1 << 60, len(corpus.text) / _CHARS_A_TOKEN)


def sums_seconds(model: Model, corpus: Corpus, rates: Rates) -> dict[str, float]:
    """Seconds by step where sums of squares are all that is wanted, of a model that is run as a quick file."""
    return {
        QUICK: _quick(model, rates),
        CALIBRATION: tokens_of(corpus) * active_weights(_read_whole(model), model) / rates.reading,
    }


def step_seconds(run: Run, rates: Rates) -> dict[str, float]:
    """Seconds by step, in the order of the run."""
    model, has_moments = run.model, run.effort is not Effort.FAST
    quick = {QUICK: _quick(model, rates)} if run.quick else {}
    seconds = {} if run.by_layer else quick
    if has_moments:
        seconds[WEIGHING] = _weighing(run, rates)
    seconds[CALIBRATION] = _calibration(run, rates)
    if run.n_probe is not None:
        seconds[TYPES] = _types(run, rates)
    if run.n_probe:
        seconds |= quick if run.by_layer else {}
        seconds |= {AGAIN_TO_TRY: _again(run, rates)} if run.again else {}
        seconds[TRYING] = _trying(run, rates, run.n_probe)
    if run.again:
        seconds[AGAIN] = _again(run, rates)
    return seconds | {ENCODING: _encoding(run, rates)}


def turns(seconds: Mapping[str, float], n_walk: int) -> dict[str, tuple[str, str]]:
    """Steps that take turns, walk after walk, by what they are called together; see `progress.Steps`."""
    follows = TYPES if TYPES in seconds else ENCODING
    read = {f"{CALIBRATION} and {follows}": (CALIBRATION, follows)} if n_walk > 1 else {}
    again = {TRYING: (AGAIN_TO_TRY, TRYING), ENCODING: (AGAIN, ENCODING)} if TYPES in seconds else {}
    return read | again


def _quick(model: Model, rates: Rates) -> float:
    return 2 * sum(t.n_weights for t in model.tensors) / rates.copy


def _weighing(run: Run, rates: Rates) -> float:
    """Chunks through the layers and back, each of which is written twice where they are run one by one."""
    model, n = run.model, taped_tokens(run.model, by_layer=run.by_layer)
    n_taped = min(taped_chunks(model), run.n_tokens / N_CTX) * n
    back = n_taped * active_weights(model.tensors, model) / rates.back
    if not run.by_layer:
        return back
    layers, outer = _parts(model)
    ahead = n_taped * active_weights(layers, model) / rates.reading
    return back + ahead + (2 * _nbytes(layers) + _nbytes(outer)) / rates.copy


def _calibration(run: Run, rates: Rates) -> float:
    model, cost = run.model, run.cost
    layers, _ = _parts(model)
    read = layers if run.by_layer else _read_whole(model)
    reading = active_weights(read, model) / rates.reading
    seconds = run.n_tokens * cost.n_walks * reading
    if run.by_layer:
        seconds += cost.n_walks * _nbytes(layers) / rates.copy + _agreement(model, rates, reading)
    if run.effort is not Effort.FAST:
        shapes = shapes_of(model)
        seconds += run.n_tokens * moments_madds(shapes, model) / rates.moments + _kept_nbytes(run) / rates.copy
    return seconds


def again_seconds(run: Run, rates: Rates) -> float:
    """What it takes to gather once more what has no room to wait, as often as that is done."""
    return run.n_again * _again(run, rates) if run.again else 0.0


def _again(run: Run, rates: Rates) -> float:
    """Moments that were not kept are gathered once more, and every layer before the last of them is run again."""
    model, shapes = run.model, shapes_of(run.model)
    read, written = _read_again(run), 0
    if run.by_layer:
        written += _nbytes(read)
    moments = {name: shapes[name] for names in run.again for name in names}
    written += walk_nbytes(moments, shapes)  # there is room once others are encoded
    gathered = moments_madds(moments, model) / rates.moments
    return written / rates.copy + run.n_tokens * (active_weights(read, model) / rates.reading + gathered)


def _read_again(run: Run) -> list[ModelTensor]:
    """Tensors of the layers that are run for that, as often as they are."""
    if not run.by_layer:
        return _read_whole(run.model) * len(run.again)
    of_walks = Counter(_layer_run(names, run.model) for names in run.again)
    n_times = dict.fromkeys(range(max(of_walks) + 1), 1) | of_walks
    return [t for t in run.model.tensors for _ in range(n_times.get(layer_of(t.name), 0))]


def _read_whole(model: Model) -> list[ModelTensor]:
    """Tensors that a text is multiplied with where the model is run as a whole."""
    return [t for t in model.tensors if t.name != "token_embd.weight"]


def _layer_run(names: frozenset[str], model: Model) -> int:
    """Layer that is run for a walk: the last one for what stands outside the layers."""
    layers = [layer_of(name) for name in names]
    return max(layers) if min(layers) >= 0 else model.hparams.n_layer - 1


def _agreement(model: Model, rates: Rates, reading: float) -> float:
    """The first layers are written and run together, and one by one."""
    layers, _ = _parts(model)
    share = min(1.0, max(AGREEMENT_NBYTES / max(1, _nbytes(layers)), 2 / model.hparams.n_layer))
    return 2 * share * (_nbytes(layers) / rates.copy + N_CTX * reading)


def _types(run: Run, rates: Rates) -> float:
    tried = tried_tensors(run.model)
    seconds = sum(_sampled(t) / rates.table_rate(t.n_per_row) for t in tried)
    return seconds + _curvatures(tried, rates) if run.fitted else seconds


def _trying(run: Run, rates: Rates, n_probe: int) -> float:
    reading = active_weights(run.model.tensors, run.model) / rates.reading
    return 3 * n_probe * N_CTX * reading + _kept_nbytes(run) / rates.copy  # as it is, and with other weights


def _encoding(run: Run, rates: Rates) -> float:
    if not rates.are_measured:
        return run.cost.encode_seconds
    planned = [t for t in run.plan.tensors if t.qtype.is_quantized]
    seconds = sum(t.tensor.n_weights / rates.encode_rate(t.qtype.name, t.tensor.n_per_row) for t in planned)
    if not run.fitted:
        return seconds
    kept = _kept_nbytes(run) if run.n_probe is not None else 0  # on the disk until types are known
    return seconds + _curvatures([t.tensor for t in planned], rates) + kept / rates.copy


def _curvatures(tensors: list[ModelTensor], rates: Rates) -> float:
    return sum(t.n_expert * nearest(rates.curvature, t.n_per_row) for t in tensors)


def _parts(model: Model) -> tuple[list[ModelTensor], list[ModelTensor]]:
    """Tensors of the layers, and others."""
    layers = [t for t in model.tensors if layer_of(t.name) >= 0]
    return layers, [t for t in model.tensors if layer_of(t.name) < 0]


def _nbytes(tensors: list[ModelTensor]) -> int:
    return sum(part.nbytes for t in tensors for part in t.parts)


def _kept_nbytes(run: Run) -> int:
    """Of moments that are written once they are gathered."""
    shapes = shapes_of(run.model)
    return sum(map(moments_nbytes, shapes.values())) - sum(walk_nbytes(names, shapes) for names in run.again)


def active_weights(tensors: "list[ModelTensor] | tuple[ModelTensor, ...]", model: Model) -> float:
    """Weights that a token is multiplied with; an embedding that is looked up is none."""
    hparams = model.hparams
    used = hparams.n_expert_used / hparams.n_expert if hparams.n_expert else 1.0
    tied = not any(t.name == "output.weight" for t in model.tensors)
    return sum(
        t.n_weights * (used if t.n_expert > 1 else 1.0) for t in tensors if tied or t.name != "token_embd.weight"
    )


def moments_madds(shapes: Mapping[str, Shape], model: Model) -> float:
    """Multiply-adds of one token: upper triangles, of the experts that it goes to."""
    used = max(1, model.hparams.n_expert_used)
    return sum((used if shape[0] > 1 else 1) * shape[1] * width_of(shape) / 2 for shape in shapes.values())


def _sampled(tensor: ModelTensor) -> int:
    """Weights of the rows that stand for a tensor in tables."""
    return tensor.n_expert * sample_rows(tensor) * tensor.n_per_row
