"""`quantize_fitted`: calibrate, choose types where a target asks for it, and encode, in one command.

    source ──► a GGUF that runs (the source itself, or a quick quantized file beside the output, deleted at the end)
           ──► evidence from the text ──► types under the target ──► the final encoding from the source's own weights

Knows the order of the steps. Does not print. A checkpoint larger than memory is calibrated on its quick file.
"""

import dataclasses
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import quant
from ggufkit.encoding.destination import check_output, copy_path, forget_copy
from ggufkit.errors import UsageError
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.cost import EffortCost, effort_cost, shapes_of
from ggufkit.fitting.coverage import Coverage
from ggufkit.fitting.encoders import Effort, FittedEncoder, ImportanceEncoder
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.sensitivity import candidates, measure, tried_tensors
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.formats.model import Model
from ggufkit.formats.partial import check_unfinished
from ggufkit.recipes.plan import QuantPlan
from ggufkit.recipes.recipe import Recipe
from ggufkit.recipes.search import Found, PlanOf, Problem, Sensitivity, Target, search
from ggufkit.runtime import machine
from ggufkit.runtime.engine import Device
from ggufkit.workflows.calibrate import texts
from ggufkit.workflows.quantize import DEFAULT_MAX_MEMORY, QuantizeReport, QuantizeSettings, prepare, quantize

Update = Callable[[float, float, str], None]
N_TOKENS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """What to make and how hard to try.

    quantize     source, output, recipe and the rest; its imatrix and fitting are not used. The pages of the model that
                 is run are mapped and do not count for its max_memory; less memory means more walks through the text
    text         calibration texts; empty takes the shipped one
    n_tokens     at most so many of them, spread evenly over the text; None reads everything
    target       choose types for a size or a divergence instead of taking quantize.recipe
    n_probe      chunks that each probe of the type choice runs on
    """

    quantize: QuantizeSettings
    effort: Effort = Effort.BALANCED
    text: tuple[Path, ...] = ()
    n_tokens: int | None = N_TOKENS
    target: Target | None = None
    n_probe: int = 32
    device: Device = Device.AUTO


@dataclass(frozen=True, slots=True)
class FitReport:
    """What was made. `found` is None where no target was given; rows are those of tensors with error feedback."""

    quantized: QuantizeReport
    found: Found | None
    texts: tuple[str, ...]
    n_walks: int
    coverage: Coverage
    rows_fitted: int
    rows_plain: int
    seconds: float


def quantize_fitted(settings: FitSettings, on_progress: Update = lambda *_: None) -> FitReport:
    """Do it all. Raises what `quantize`, `calibrate` and `search` raise."""
    started = time.perf_counter()
    text, names = texts(settings.text)
    cost = cost_of(settings)
    job = dataclasses.replace(settings.quantize, imatrix=None, max_memory=cost.peak_nbytes)
    model = _checked(job)
    try:
        if settings.target is not None:
            check_target(settings.target, model, planner(job))
        with running_model(job, model, on_progress) as running:
            corpus = Corpus(
                running, text, n_tokens=settings.n_tokens, threads=job.threads or None, device=settings.device,
                type_name="" if job.source.is_file() else quick_type(model),
            )  # fmt: skip
            evidence = Evidence(
                WholeModel(corpus), shapes_of(model), max_nbytes=cost.budget_nbytes, on_chunk=_chunks(on_progress)
            )
            encoder = encoder_for(settings.effort, evidence, shapes_of(model), held_nbytes=cost.held_nbytes)
            job = dataclasses.replace(job, fitting=encoder)
            found = None
            if settings.target is not None:
                found = choose_types(
                    settings.target, model, evidence, corpus,
                    plan_of=planner(job), n_probe=settings.n_probe, on_progress=on_progress,
                )  # fmt: skip
                job = dataclasses.replace(job, recipe=found.recipe)
            report = quantize(job, lambda p: on_progress(p.done_nbytes, p.total_nbytes, f"encode {p.tensor}"))
    finally:
        for file in model.files:
            file.close()
    tally = list(encoder.tally.values())
    return FitReport(
        quantized=report,
        found=found,
        texts=names,
        n_walks=cost.n_walks,
        coverage=encoder.coverage,
        rows_fitted=sum(row["fitted"] for row in tally),
        rows_plain=sum(row["plain"] for row in tally),
        seconds=time.perf_counter() - started,
    )


def _checked(settings: QuantizeSettings) -> Model:
    """The source's model, after all that would keep the end from being reached is looked for: hours lie in between."""
    job = prepare(settings)
    try:
        check_output(settings, [file.path for file in job.model.files], job.plan.file_nbytes)
        check_unfinished(settings.output, resume=settings.resume)
    except BaseException:
        for file in job.model.files:
            file.close()
        raise
    return job.model


def encoder_for(
    effort: Effort, evidence: Evidence, covers: Container[str], *, held_nbytes: int = 0
) -> ImportanceEncoder | FittedEncoder:
    """The row encoder of an effort; second moments are gathered only where it needs them."""
    if effort is Effort.FAST:
        return ImportanceEncoder(covers, evidence.source, evidence.on_chunk, held_nbytes)
    return FittedEncoder(evidence, covers, effort, held_nbytes)


def cost_of(settings: FitSettings) -> EffortCost:
    """What `quantize_fitted` will cost with these settings; reads headers only. Raises UsageError where the memory
    does not suffice."""
    job = prepare(dataclasses.replace(settings.quantize, max_memory=None))
    for file in job.model.files:
        file.close()
    # types are chosen with second moments, whatever the effort
    effort = Effort.BALANCED if settings.target and settings.effort is Effort.FAST else settings.effort
    return effort_cost(job.model, job.plan, effort, threads=job.threads, max_memory=cap_of(settings))


def cap_of(settings: FitSettings) -> int:
    """Resident bytes that may be used."""
    return settings.quantize.max_memory or max(DEFAULT_MAX_MEMORY, machine.memory().total // 2)


@contextmanager
def running_model(settings: QuantizeSettings, model: Model, on_progress: Update) -> Iterator[Path]:
    """A GGUF of the model that llama.cpp can run: the source where it is one, else a quick file, deleted afterwards."""
    if settings.source.is_file():
        yield settings.source
        return
    quick, kind = copy_path(settings.output, "calibration"), quick_type(model)
    forget_copy(settings.output, "calibration")
    try:
        quantize(
            dataclasses.replace(
                settings, output=quick, recipe=kind, imatrix=None, fitting=None, force=True, resume=False, restart=False
            ),
            lambda p: on_progress(p.done_nbytes, p.total_nbytes, f"quick {kind} file to calibrate on"),
        )
        yield quick
    finally:
        forget_copy(settings.output, "calibration")


@contextmanager
def running_source(source: Path, output: Path, on_progress: Update) -> Iterator[Path]:
    """The same for a source that is to be calibrated only; the quick file lies beside `output`."""
    if source.is_file():
        yield source
        return
    settings = QuantizeSettings(source=source, output=output)
    model = prepare(settings).model
    try:
        with running_model(settings, model, on_progress) as running:
            yield running
    finally:
        for file in model.files:
            file.close()


def quick_type(model: Model) -> str:
    """The finest type whose file leaves a third of this machine's memory free: BF16, Q8_0, Q4_K_M or Q2_K."""
    n_weights = sum(t.n_weights for t in model.tensors)
    memory = machine.memory().total
    for name, bpw in (("BF16", 16.0), ("Q8_0", 8.5), ("Q4_K_M", 4.9), ("Q2_K", 3.0)):
        if n_weights * bpw / 8 < memory * 2 / 3:
            return name
    return "Q2_K"


def choose_types(
    target: Target,
    model: Model,
    evidence: Evidence,
    corpus: Corpus,
    *,
    plan_of: PlanOf,
    n_probe: int,
    on_progress: Update,
) -> Found:
    """Measure what each tensor costs at each type, and solve for the target."""
    costs = measure(model, evidence, corpus, n_chunks=n_probe, on_progress=on_progress)
    tensors = [t for t in model.tensors if t.name in costs]
    return search(Problem(tensors, costs, plan_of, "searched"), target)


def check_target(target: Target, model: Model, plan_of: PlanOf) -> None:
    """Raise UsageError for a size that no types make, before anything is measured."""
    if sum(value is not None for value in target) != 1:
        raise UsageError("give one of --target-size, --target-bpw and --max-kld")
    if target.kld is None:
        tensors = tried_tensors(model)
        guessed = {
            t.name: Sensitivity({name: 4.0 ** -quant.quant_type(name).bpw for name in candidates(t)}, 1.0, 0.0)
            for t in tensors
        }
        search(Problem(tensors, guessed, plan_of, "guessed"), target)


def planner(settings: QuantizeSettings) -> PlanOf:
    """The finished plan that these settings give with another recipe."""

    def plan_of(recipe: Recipe) -> QuantPlan:
        job = prepare(dataclasses.replace(settings, recipe=recipe))
        for file in job.model.files:
            file.close()
        return job.plan

    return plan_of


def _chunks(on_progress: Update) -> Callable[[int, int], None]:
    return lambda done, total: on_progress(done, total, "calibration chunks")
