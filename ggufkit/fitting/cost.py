"""What an effort costs, said before it is spent: walks through the text, memory, time to encode.

    base, header  +  slabs in work  +  the larger of
        moments of a walk, two experts in hand, what the model or a layer of it computes in
        what it computes in on the way to gradients, and the values that they need on their way back

The weights of what is run come on top, the whole model's or those of one layer or the output matrix: they are mapped
from its file, and the system may take their pages back. Knows shapes and the rates measured on one core (see
benchmarks/fitted.py). Does not measure this machine.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ggufkit.encoding.executors.threads import Threads
from ggufkit.encoding.memory import fixed_nbytes, slabs_nbytes
from ggufkit.errors import UsageError
from ggufkit.fitting.corpus import N_CTX
from ggufkit.fitting.couplings import couplings_nbytes, groups_of, layer_together_nbytes, together_nbytes
from ggufkit.fitting.encoders import REFINE_ROUNDS, Effort, bytes_per_weight, n_products
from ggufkit.fitting.layer_gradients import HEAD_TOKENS
from ggufkit.fitting.rates import PLAIN, PRODUCTS, RECODED
from ggufkit.fitting.sources.cut import N_DUMMY, cut_head
from ggufkit.fitting.sources.scratch import plan_as_it_is
from ggufkit.fitting.token_weights import MAX_CHUNKS
from ggufkit.fitting.walks import Shape, moments_nbytes, plan_layer_walks, plan_walks, walks_nbytes, width_of
from ggufkit.formats.model import Hparams, Model
from ggufkit.recipes.plan import QuantPlan
from ggufkit.recipes.quantizable import kept_reason, layer_of
from ggufkit.runtime import memory
from ggufkit.runtime.backward import SLAB_WEIGHTS as WIDENED_WEIGHTS

_SLAB_WEIGHTS = 1 << 20
_MOST_TAPE_NBYTES = 6 << 30
_LEAST_TAPED = 64
_LEAST_CHUNKS = 8
_TAPED_WEIGHTS = 24 * 10**9  # weights times chunks


@dataclass(frozen=True, slots=True)
class EffortCost:
    """`n_walks` readings of the text, `moments_nbytes` at a time, `encode_seconds` to encode on those threads.

    n_walks        of the whole model; or of each layer, the most that one takes, where it is run by layer
    disk_nbytes    beside the output while it is made: the residual stream twice and a layer, or what goes into every
                   layer of the chunks that gradients are taken of, and the output matrix
    reading_nbytes of the disk, while the text is read: streams and a layer; what is kept of layers comes on top
    mapped_nbytes  of weights that are run at a time, where the model is run by layer: a layer, or the output matrix
    budget_nbytes  what moments may take, to plan the same walks again
    held_nbytes    moments, experts in hand and what the model computes in: all but base and slabs
    peak_nbytes    resident memory without the pages of the model that is run
    """

    n_walks: int
    disk_nbytes: int
    reading_nbytes: int
    mapped_nbytes: int
    budget_nbytes: int
    moments_nbytes: int
    held_nbytes: int
    peak_nbytes: int
    encode_seconds: float


def effort_cost(
    model: Model, plan: QuantPlan, effort: Effort, *, threads: int, max_memory: int, n_tokens: int | None = None,
    n_workers: int = 0,
) -> EffortCost:  # fmt: skip
    """Costs of encoding the whole model under `max_memory` bytes. Time to run the model on the text is not included:
    it is the model's own. Raises UsageError where the memory does not suffice, with the least that would.

    n_tokens   of the residual stream, where the model is run layer by layer; None where it is run as a whole
    n_workers  processes of this machine that encode; each has two experts in hand
    """
    shapes = shapes_of(model)
    largest = max(t.tensor.n_weights for t in plan.tensors)
    groups = {} if effort is Effort.FAST else groups_of(model)
    n_slabs, weights = Threads(threads).n_slabs, min(_SLAB_WEIGHTS, largest)
    slabs = slabs_nbytes(plan, n_slabs, weights, bytes_per_weight(effort), groups)
    by_layer = n_tokens is not None
    alone = replace(model.hparams, n_layer=1, n_vocab=N_DUMMY) if by_layer else model.hparams
    running = _running_nbytes(alone, shapes)
    fixed = fixed_nbytes(plan, running, n_workers) + slabs
    taped = 0
    if effort is Effort.FAST:
        sums = sum(3 * 8 * n_expert * n_per_row for n_expert, n_per_row in shapes.values())
        walks, moments, cases, budget = 1, sums, 0, sums
    else:
        cases = _cases_nbytes(shapes) + couplings_nbytes(model)
        cases *= 1 + n_workers
        budget = max(0, max_memory - fixed - cases)
        planned = (plan_walks if n_tokens is None else plan_layer_walks)(shapes, budget)
        walks, moments = len(planned), walks_nbytes(planned, shapes)
        if n_tokens is not None:
            walks = max(Counter(max(map(layer_of, names)) for names in planned).values(), default=0)
        n_taped = taped_tokens(model, by_layer=by_layer)
        if by_layer:
            head = replace(model.hparams, n_layer=1)
            more = _running_nbytes(head, shapes, HEAD_TOKENS) - _running_nbytes(alone, shapes, HEAD_TOKENS)
            layer = layer_tape_nbytes(model.hparams, shapes, n_taped) + layer_together_nbytes(model)
            taped = max(layer, more + head_tape_nbytes(model.hparams))
        else:
            taped = tape_nbytes(model.hparams, shapes, n_taped)
    peak = fixed + max(cases + moments, taped)
    if peak > max_memory:
        instead = "fewer --threads" if effort is Effort.FAST else "--effort fast"
        raise UsageError(
            f"--effort {effort} needs {-(-peak >> 20)}MiB of memory for this model, --max-memory is "
            f"{max_memory >> 20}MiB. Raise it, or use {instead}."
        )
    held = running + cases + moments
    disk = reading = mapped = 0
    if n_tokens is not None:
        reading, mapped = _reading_nbytes(model, n_tokens), _mapped_nbytes(model, effort)
        disk = reading if effort is Effort.FAST else max(reading, _gradients_nbytes(model, n_tokens))
    seconds = _seconds(model, effort) / max(1, threads)
    return EffortCost(walks, disk, reading, mapped, budget, moments, held, peak, seconds)


def _reading_nbytes(model: Model, n_tokens: int) -> int:
    """Of the disk: what goes into a layer, what comes out of it, and the layer."""
    return 2 * n_tokens * 4 * model.hparams.n_embd + _layer_nbytes(model)


def _gradients_nbytes(model: Model, n_tokens: int) -> int:
    """Of the disk: what goes into every layer, two gradients, and the layer or the output matrix."""
    n_taped = weighed_tokens(model, n_tokens, by_layer=True)
    streams = (model.hparams.n_layer + 2) * n_taped * 4 * model.hparams.n_embd
    return streams + max(_layer_nbytes(model), _head_nbytes(model))


def _mapped_nbytes(model: Model, effort: Effort) -> int:
    return max(_layer_nbytes(model), 0 if effort is Effort.FAST else _head_nbytes(model))


def _head_nbytes(model: Model) -> int:
    """Bytes of the file that gives logits, its holes included."""
    return plan_as_it_is(cut_head(model)).data_nbytes


def _layer_nbytes(model: Model) -> int:
    """Bytes of the largest layer as it is stored."""
    sizes: Counter[int] = Counter()
    for tensor in model.tensors:
        sizes[layer_of(tensor.name)] += sum(part.nbytes for part in tensor.parts)
    return max((nbytes for layer, nbytes in sizes.items() if layer >= 0), default=0)


def shapes_of(model: Model) -> dict[str, Shape]:
    """(n_expert, n_per_row) of every tensor that may be quantized, in the order of the file."""
    return {t.name: (t.n_expert, t.n_per_row) for t in model.tensors if kept_reason(t) is None}


def taped_tokens(model: Model, *, by_layer: bool = False) -> int:
    """Tokens at the beginning of a chunk that gradients are taken for: all, or as many as keep their values small.

    Decided by the model alone: the bytes of the file must not depend on the memory at hand.
    """
    shapes, n = shapes_of(model), N_CTX
    takes = layer_tape_nbytes if by_layer else tape_nbytes
    while n > _LEAST_TAPED and takes(model.hparams, shapes, n) > _MOST_TAPE_NBYTES:
        n //= 2
    return n


def taped_chunks(model: Model) -> int:
    """Chunks that gradients are taken for: fewer of large models, where each takes minutes and eight tell enough."""
    n_weights = sum(t.n_weights for t in model.tensors)
    return max(_LEAST_CHUNKS, min(MAX_CHUNKS, _TAPED_WEIGHTS // max(1, n_weights)))


def weighed_tokens(model: Model, n_tokens: int, *, by_layer: bool = False) -> int:
    """Of a text of so many, those that gradients are taken for."""
    return min(n_tokens, taped_chunks(model) * taped_tokens(model, by_layer=by_layer))


def token_weights_nbytes(model: Model, n_weighed: int) -> int:
    """What these tokens count for in every tensor, and its rows."""
    used = max(1, model.hparams.n_expert_used)
    tensors = [t for t in model.tensors if kept_reason(t) is None]
    each = (4 * n_weighed * (used if t.n_expert > 1 else 1) + 8 * t.n_rows + together_nbytes(t) for t in tensors)
    return sum(each)


def tape_nbytes(hparams: Hparams, shapes: Mapping[str, Shape], n: int) -> int:
    """What the values of `n` tokens take on the way to their gradients, with the logits, their probabilities and
    copies."""
    return 4 * n * (hparams.n_layer * _layer_values(hparams, shapes, n) + 4 * hparams.n_vocab)


def layer_tape_nbytes(hparams: Hparams, shapes: Mapping[str, Shape], n: int) -> int:
    """The same of one layer, and the gradients of all these values."""
    return 2 * 4 * n * _layer_values(hparams, shapes, n)


def head_tape_nbytes(hparams: Hparams) -> int:
    """The same of the output matrix: probabilities of the tokens in hand and a copy, and rows that are widened."""
    return 2 * 4 * HEAD_TOKENS * hparams.n_vocab + 2 * 4 * min(WIDENED_WEIGHTS, hparams.n_vocab * hparams.n_embd)


def _layer_values(hparams: Hparams, shapes: Mapping[str, Shape], n: int) -> int:
    """Floats a token: six rows of the stream, queries, keys and values before and after they are turned, attention, and
    the wide side of the feed-forward block."""
    widest = max((n_per_row for _, n_per_row in shapes.values()), default=0)
    heads = hparams.n_head * (3 * hparams.head_dim_k + hparams.head_dim_v + n)
    return 6 * hparams.n_embd + heads + 3 * max(1, hparams.n_expert_used) * widest


def _cases_nbytes(shapes: Mapping[str, Shape]) -> int:
    """The two largest experts of a layer in hand, of which one is being made, three matrices each, and the sums over
    all of the larger."""
    of_layer: dict[int, list[int]] = {}
    sums = max((moments_nbytes((1, n_per_row)) for _, n_per_row in shapes.values()), default=0)
    for name, shape in shapes.items():
        case = 3 * 4 * shape[1] * width_of(shape)
        of_layer.setdefault(layer_of(name), []).extend([case] * min(2, shape[0]))
    return sums + max((sum(sorted(cases)[-2:]) for cases in of_layer.values()), default=0)


def _running_nbytes(hparams: Hparams, shapes: Mapping[str, Shape], n: int = N_CTX) -> int:
    """What llama.cpp allocates besides weights for `n` tokens, and their inputs as they are copied for an expert."""
    one = memory.footprint(0, hparams, memory.Decoding(n, 1, n, n))
    widest = max((n_per_row for _, n_per_row in shapes.values()), default=0)
    copies = 2 * 4 * min(n, memory.N_UBATCH) * max(1, hparams.n_expert_used) * widest
    return one.total + copies


def _seconds(model: Model, effort: Effort) -> float:
    """Core seconds: plain search, and with error feedback the products over each row's columns."""
    tensors = [t for t in model.tensors if kept_reason(t) is None]
    seconds = sum(t.n_weights for t in tensors) / PLAIN
    if effort is Effort.FAST:
        return seconds
    for t in tensors:
        width = width_of((t.n_expert, t.n_per_row))
        factors = t.n_expert * t.n_per_row * width * width / 6
        seconds += (n_products(effort) * t.n_weights * width + factors) / PRODUCTS
        seconds += REFINE_ROUNDS[effort] * t.n_weights / RECODED
    return seconds
