"""Types under a target: what each costs is read off the evidence, `recipes/search.py` solves, a divergence is tried."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from ggufkit.cluster.tasks import Cluster
from ggufkit.errors import UsageError
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.guess import guess
from ggufkit.fitting.prober import Prober, Tried
from ggufkit.fitting.sensitivity import Subject, measure_costs
from ggufkit.formats.model import Model, ModelTensor
from ggufkit.progress import OnProgress, Progress, ignore
from ggufkit.recipes.search import Found, PlanOf, Problem, Target, search


def check_target(target: Target, model: Model, plan_of: PlanOf) -> None:
    """Raise UsageError for a size that no types make, before anything is measured."""
    if sum(value is not None for value in target) != 1:
        raise UsageError("give one of --target-size, --target-bpw and --max-kld")
    if target.kld is None:
        guess(target, model, plan_of)


def types_for_target(
    target: Target,
    model: Model,
    evidence: Evidence,
    *,
    plan_of: PlanOf,
    n_probe: int,
    ready: Callable[[], object] = lambda: None,
    on_progress: OnProgress = ignore,
    on_tried: OnProgress = ignore,
    cluster: Cluster | None = None,
) -> Found:
    """Find what each tensor costs at each type, and solve for the target.

    A size needs the costs in proportion only. For a divergence, a first solution is tried in the model, and all costs
    are scaled by what it says.

    ready     called before types are tried, where they are: the model is going to be run
    on_tried  told how far that has come
    cluster   whose workers find out what types cost
    """
    costs = measure_costs(model, evidence, on_progress, cluster)
    tensors = [t for t in model.tensors if t.name in costs]
    found = search(Problem(tensors, costs, plan_of, "searched"), target)
    if target.kld is None:
        return found
    tried = functools.partial(tried_divergence, found.types, tensors, evidence, n_probe=n_probe, ready=ready)
    key = f"divergence {hashlib.sha256(str(sorted(found.types.items())).encode()).hexdigest()[:16]} {n_probe}"
    measured = evidence.notebook.remember(key, functools.partial(tried, on_progress=on_tried))
    factor = measured / max(found.kld, 1e-12)
    scaled = {name: dataclasses.replace(cost, nats=factor * cost.nats) for name, cost in costs.items()}
    return search(Problem(tensors, scaled, plan_of, "searched"), target)


def tried_divergence(
    types: Mapping[str, str],
    tensors: Sequence[ModelTensor],
    evidence: Evidence,
    *,
    n_probe: int,
    ready: Callable[[], object] = lambda: None,
    on_progress: OnProgress = ignore,
) -> float:
    """Mean divergence of the running model with every tensor stored in its type, nats a token."""
    ready()
    tried, n_step = {}, len(tensors) + 1  # the last is the model
    in_turn = sorted(tensors, key=lambda tensor: evidence.place(tensor.name))
    for done, tensor in enumerate(in_turn, start=1):
        subject, tried[tensor.name] = Subject(tensor, evidence), Tried(tensor, types[tensor.name])
        for expert in range(tensor.n_expert):
            w = tensor.rows(expert, 0, tensor.n_rows)
            tried[tensor.name].blocks.append(subject.encoded(expert, w, types[tensor.name], 0))
        on_progress(Progress(done, n_step, "tensors", tensor.name))
    with closing(Prober(evidence.source.corpus, n_probe)) as prober:
        divergence = prober.kld(tried)[0]
    on_progress(Progress(n_step, n_step, "tensors"))
    return divergence
