"""`quantize_fitted`: calibrate, choose types where a target asks for it, and encode, in one command.

    source ──► a GGUF that runs (the source itself, or a quick quantized file beside the output, deleted at the end)
           ──► evidence from the text ──► types under the target ──► the final encoding from the source's own weights

Knows the order of the steps. Does not print. A checkpoint larger than memory is calibrated on its quick file.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import quant
from ggufkit.architectures.source import open_source
from ggufkit.encoding.destination import copy_path, forget_copy
from ggufkit.encoding.encoder import PlainEncoder
from ggufkit.encoding.job import Job, Output, check_place, prepare
from ggufkit.encoding.settings import DEFAULT_MAX_MEMORY, QuantizeSettings
from ggufkit.errors import UsageError
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.cost import EffortCost, effort_cost, shapes_of, taped_tokens
from ggufkit.fitting.coverage import Coverage
from ggufkit.fitting.encoders import Effort, FittedEncoder, ImportanceEncoder
from ggufkit.fitting.evidence import Evidence, Weigh
from ggufkit.fitting.sensitivity import candidates, measure, tried_tensors
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.fitting.token_weights import measure_weights
from ggufkit.formats.model import Model
from ggufkit.formats.partial import check_unfinished
from ggufkit.progress import OnProgress, Progress, ignore
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.plan import QuantPlan
from ggufkit.recipes.recipe import Recipe
from ggufkit.recipes.search import Found, PlanOf, Problem, Sensitivity, Target, search
from ggufkit.runtime import machine
from ggufkit.runtime.engine import Device
from ggufkit.workflows.calibrate import texts
from ggufkit.workflows.quantize import QuantizeReport, encode, report_of

N_TOKENS = 100_000
_HEADER_NBYTES = 1 << 20  # what a file owes to calibration is in its header, and not in the plan that is costed


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """What to make and how hard to try.

    quantize     source, output, recipe and the rest; its imatrix is not used. The pages of the model that
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


class FittedJob:
    """All that is known before the model runs: what `--dry-run` shows. See `opened`."""

    def __init__(self, settings: FitSettings, model: Model) -> None:
        self.settings, self.model = settings, model
        text, self.texts = texts(settings.text)
        self.cost = _cost(settings, model)
        max_memory = self.cost.peak_nbytes + _HEADER_NBYTES
        self._job = dataclasses.replace(settings.quantize, imatrix=None, max_memory=max_memory)
        corpus = Corpus(
            running_path(self._job), text, n_tokens=settings.n_tokens, threads=self._job.threads or None,
            device=settings.device, type_name="" if self._job.source.is_file() else quick_type(model),
        )  # fmt: skip
        self.evidence = Evidence(
            WholeModel(corpus), shapes_of(model), moments=_effort(settings) is not Effort.FAST,
            sums=settings.effort is Effort.FAST, max_nbytes=self.cost.budget_nbytes,
            weigh=weigher(corpus, model),
        )  # fmt: skip
        self.encoder = encoder_for(
            settings.effort, self.evidence, held_nbytes=self.cost.held_nbytes, name=self._job.encoder
        )
        self.plain = prepare(self._job, model, self.encoder)  # of settings.quantize.recipe, which a target replaces

    def check(self) -> None:
        """Raise what would keep the end from being reached: hours lie in between."""
        check_place(self.plain)
        check_unfinished(self._job.output, resume=self._job.resume)
        if self.settings.target is not None:
            check_target(self.settings.target, self.model, self._plan_of)

    def run(self, on_progress: OnProgress = ignore) -> FitReport:
        """Do it all."""
        started = time.perf_counter()
        self.check()
        self.evidence.on_chunk = _chunks(on_progress)
        self.evidence.on_weighed = _chunks(on_progress, "weigh tokens")
        with running_model(self._job, self.model, on_progress):
            found = self._choose(on_progress)
            recipe = found.recipe if found else self._job.recipe
            job = prepare(dataclasses.replace(self._job, recipe=recipe), self.model, self.encoder)
            resumed = self._encode(job, on_progress)
        tally = list(self.encoder.tally.values())
        seconds = time.perf_counter() - started
        return FitReport(
            quantized=report_of(job, resumed, seconds),
            found=found,
            texts=self.texts,
            n_walks=len(self.evidence.walks),
            coverage=self.evidence.coverage,
            rows_fitted=sum(row["fitted"] for row in tally),
            rows_plain=sum(row["plain"] for row in tally),
            seconds=seconds,
        )

    def _choose(self, on_progress: OnProgress) -> Found | None:
        if self.settings.target is None:
            return None
        return choose_types(
            self.settings.target, self.model, self.evidence, self.evidence.source.corpus,
            plan_of=self._plan_of, n_probe=self.settings.n_probe, on_progress=on_progress,
        )  # fmt: skip

    def _encode(self, job: Job, on_progress: OnProgress) -> int:
        """Walk after walk: gather, then encode what was gathered for. Returns the bytes that were there before."""
        walks = self.evidence.walks
        plain = {t.name for t in job.plan.tensors}.difference(*walks)
        with Output(job, _named(on_progress, "encode")) as out:
            out.encode(self.encoder, plain)
            for names in walks:
                if self.settings.effort is not Effort.FAST or not names <= self.evidence.seen:
                    self.evidence.hold(names)
                out.encode(self.encoder, names)
            out.finish(self.encoder)
        return out.resumed_nbytes

    def _plan_of(self, recipe: Recipe) -> QuantPlan:
        return prepare(dataclasses.replace(self._job, recipe=recipe), self.model, self.encoder).plan


@contextmanager
def opened(settings: FitSettings) -> Iterator[FittedJob]:
    """The job, while its source is open. Raises what `quantize` raises before its first byte."""
    source = settings.quantize
    with open_source(source.source, allow_requantize=source.allow_requantize, mtp=source.mtp) as model:
        yield FittedJob(settings, model)


def quantize_fitted(settings: FitSettings, on_progress: OnProgress = ignore) -> FitReport:
    """Do it all. Raises what `quantize`, `calibrate` and `search` raise."""
    with opened(settings) as job:
        return job.run(on_progress)


def weigher(corpus: Corpus, model: Model) -> Weigh:
    """What `Evidence` calls to have the tokens of a corpus weighed."""
    wanted = shapes_of(model)
    return lambda on_chunk: measure_weights(corpus, wanted.__contains__, n_ctx=taped_tokens(model), on_chunk=on_chunk)


def encoder_for(
    effort: Effort, evidence: Evidence, *, held_nbytes: int = 0, name: quant.Encoder = quant.Encoder.GGUFKIT
) -> ImportanceEncoder | FittedEncoder:
    """The row encoder of an effort. `name` is whose bytes `fast` makes; error feedback is ggufkit's own."""
    if effort is Effort.FAST:
        return ImportanceEncoder(evidence, held_nbytes, name)
    return FittedEncoder(evidence, effort, held_nbytes)


def cost_of(settings: FitSettings) -> EffortCost:
    """What `quantize_fitted` will cost with these settings; reads headers only. Raises UsageError where the memory
    does not suffice."""
    with opened(settings) as job:
        return job.cost


def _cost(settings: FitSettings, model: Model) -> EffortCost:
    plan = make_plan(model, settings.quantize.recipe, importance=shapes_of(model))
    threads = settings.quantize.threads or machine.choose_threads().n
    return effort_cost(model, plan, _effort(settings), threads=threads, max_memory=cap_of(settings))


def _effort(settings: FitSettings) -> Effort:
    """What evidence is needed: types are chosen with second moments, whatever the effort."""
    return Effort.BALANCED if settings.target and settings.effort is Effort.FAST else settings.effort


def cap_of(settings: FitSettings) -> int:
    """Resident bytes that may be used."""
    return settings.quantize.max_memory or max(DEFAULT_MAX_MEMORY, machine.memory().total // 2)


def running_path(settings: QuantizeSettings) -> Path:
    """The GGUF of the model that llama.cpp runs: the source where it is one, else a quick file beside the output."""
    return settings.source if settings.source.is_file() else copy_path(settings.output, "calibration")


@contextmanager
def running_model(settings: QuantizeSettings, model: Model, on_progress: OnProgress) -> Iterator[Path]:
    """The file at `running_path`; a quick file is made first, and deleted afterwards."""
    path = running_path(settings)
    if path == settings.source:
        yield path
        return
    kind = quick_type(model)
    forget_copy(settings.output, "calibration")
    quick = dataclasses.replace(
        settings, output=path, recipe=kind, imatrix=None, force=True, resume=False, restart=False
    )
    try:
        encode(
            quick, model, PlainEncoder(),
            _named(on_progress, f"quick {kind} file to calibrate on:"),
        )  # fmt: skip
        yield path
    finally:
        forget_copy(settings.output, "calibration")


@contextmanager
def running_source(source: Path, output: Path, on_progress: OnProgress) -> Iterator[Path]:
    """The same for a source that is to be calibrated only; the quick file lies beside `output`."""
    if source.is_file():
        yield source
        return
    settings = QuantizeSettings(source=source, output=output)
    with open_source(source) as model, running_model(settings, model, on_progress) as running:
        yield running


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
    on_progress: OnProgress,
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


def _chunks(on_progress: OnProgress, what: str = "calibration") -> Callable[[int, int], None]:
    return lambda done, total: on_progress(Progress(done, total, "chunks", what))


def _named(on_progress: OnProgress, step: str) -> OnProgress:
    return lambda p: on_progress(dataclasses.replace(p, what=f"{step} {p.what}"))
