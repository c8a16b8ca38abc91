"""`quantize_fitted`: calibrate, choose types where a target asks for it, and encode, in one command.

    source, layer by layer ──► evidence from the text ──► types under the target ──► the final encoding

A family that cannot be cut into layers is run as a whole, and so is the model that a divergence is tried on: the
source where it is a GGUF, else a quick quantized file beside the output, deleted at the end. Knows the order of the
steps. Does not print.
"""

import dataclasses
import functools
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import quant
from ggufkit import __version__
from ggufkit.encoding.destination import check_output, forget_copy
from ggufkit.encoding.executors import Executor
from ggufkit.encoding.executors.opening import opened as working
from ggufkit.encoding.job import Job, Output, prepare, threads_of
from ggufkit.encoding.provenance import code_digest
from ggufkit.encoding.running import CALIBRATION_COPY, quick_type, running_model, running_path, stored_model
from ggufkit.encoding.settings import DEFAULT_MAX_MEMORY, QuantizeSettings
from ggufkit.errors import CutError, GgufkitError, UsageError
from ggufkit.fitting.choice import check_target, types_for_target
from ggufkit.fitting.corpus import Corpus, texts
from ggufkit.fitting.cost import EffortCost, effort_cost, shapes_of, weighed_tokens
from ggufkit.fitting.coverage import Coverage
from ggufkit.fitting.disk import Disk, Needs
from ggufkit.fitting.duration import (
    CALIBRATION,
    ENCODING,
    QUICK,
    TRYING,
    TYPES,
    WEIGHING,
    Run,
    again_seconds,
    step_seconds,
    turns,
)
from ggufkit.fitting.encoders import Effort, encoder_for
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.gradient_relay import GradientRelay
from ggufkit.fitting.guess import NOTE, guess
from ggufkit.fitting.keeping import AGAIN, AGAIN_TO_TRY, Kept, Regathering, kept_in
from ggufkit.fitting.layer_gradients import LayerGradients
from ggufkit.fitting.layers_at_once import LayersAtOnce
from ggufkit.fitting.notebook import Notebook
from ggufkit.fitting.rates import assumed
from ggufkit.fitting.relay import Relay
from ggufkit.fitting.sources import OnChunk
from ggufkit.fitting.sources.cut import is_cuttable
from ggufkit.fitting.sources.layer_by_layer import LayerByLayer, Stream
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.fitting.timing import measured_rates
from ggufkit.fitting.token_weights import TokenWeights
from ggufkit.fitting.walks import walks_nbytes
from ggufkit.fitting.weighing import gradient_settings, weigher
from ggufkit.formats.model import Model
from ggufkit.formats.unfinished import check_unfinished, kept_path
from ggufkit.progress import OnProgress, Progress, Steps, ignore
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.plan import QuantPlan
from ggufkit.recipes.recipe import Recipe
from ggufkit.recipes.search import Found, Target
from ggufkit.runtime import machine
from ggufkit.runtime.loading import Device
from ggufkit.workflows.plan import FitCost
from ggufkit.workflows.quantize import QuantizeReport, report_of

N_TOKENS = 100_000
_BYTES_PER_TOKEN = 3  # of the text, fewer than most tokenizers take, where a disk is planned for
_WORTH_MEASURING_S = 20.0  # of a run, below which its time is assumed
_HEADER_NBYTES = 1 << 20  # what a file owes to calibration is in its header, and not in the plan that is costed


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """What to make and how hard to try.

    quantize     source, output, recipe and the rest; its imatrix is not used. The pages of the model that
                 is run are mapped and do not count for its max_memory; less memory means more walks through the text
    text         calibration texts; empty takes the shipped one
    n_tokens     at most so many of them, spread evenly over the text; None reads everything
    target       choose types for a size or a divergence instead of taking quantize.recipe
    n_probe      chunks that a divergence is tried on, where that is the target
    by_layer     run the source layer by layer where its family allows it, whatever its size
    stream       what a layer is shown: what the source's layers before it give, or those of the output
    evidence     a folder where what calibration finds out stays, for other files of the same source and text
    """

    quantize: QuantizeSettings
    effort: Effort = Effort.BALANCED
    text: tuple[Path, ...] = ()
    n_tokens: int | None = N_TOKENS
    target: Target | None = None
    n_probe: int = 8
    device: Device = Device.AUTO
    by_layer: bool = True
    stream: Stream = Stream.ORIGINAL
    evidence: Path | None = None


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
    """All that is known before the model runs: what `--dry-run` shows. See `opened`.

    seconds  that each step is thought to take, by its name in the order of the run
    plain    the job with the types that `settings.quantize` names; a target replaces them
    placed   whether the output goes where the settings say: else its disk is taken to have room
    """

    def __init__(self, settings: FitSettings, model: Model, *, placed: bool = True) -> None:
        self.settings, self.model = settings, model
        text, self.texts = texts(settings.text)
        self.by_layer = settings.by_layer and is_cuttable(model)
        fits = self.by_layer and settings.target is None and settings.effort is not Effort.FAST
        if settings.stream is Stream.STORED and not fits:
            raise UsageError(
                "--stream stored goes with --effort balanced or best, with given types, and with families that are run "
                "layer by layer. Leave it out."
            )
        n_tokens = settings.n_tokens or len(text.encode()) // _BYTES_PER_TOKEN
        self.cost = _cost(settings, model, n_tokens if self.by_layer else None)
        max_memory = self.cost.peak_nbytes + _HEADER_NBYTES
        self._job = dataclasses.replace(settings.quantize, imatrix=None, max_memory=max_memory)
        runs_whole = not self.by_layer or bool(_n_tried(settings))
        is_quick = self._job.source.is_dir() and runs_whole
        corpus = Corpus(
            running_path(self._job, CALIBRATION_COPY), text, n_tokens=settings.n_tokens,
            threads=self._job.threads or None, device=settings.device, type_name=quick_type(model) if is_quick else "",
            is_judged=_effort(settings) is not Effort.FAST,
        )  # fmt: skip
        self.source = (
            LayerByLayer(model, corpus, kept_path(self._job.output) / "layers", stream=settings.stream)
            if self.by_layer
            else WholeModel(corpus, self._run_model)
        )
        self.evidence = Evidence(
            self.source, shapes_of(model), moments=_effort(settings) is not Effort.FAST,
            sums=settings.effort is Effort.FAST, max_nbytes=self.cost.budget_nbytes,
            weigh=self._weigh,
        )  # fmt: skip
        self.encoder = encoder_for(
            settings.effort, self.evidence, held_nbytes=self.cost.held_nbytes, name=self._job.encoder
        )
        self.plain = prepare(self._job, model, self.encoder)
        n_weighed = weighed_tokens(model, n_tokens, by_layer=self.by_layer) if self.evidence.with_moments else 0
        needs = Needs.of(model, self.cost, n_weighed=n_weighed, by_layer=self.by_layer, quick=is_quick)
        self._disk = Disk(self._job.output, self._notes_folder(), self._file_nbytes(), needs)
        self._here = self._kept_in(self._disk.room())
        self.kept = self._here if placed else self._kept_in(1 << 62)
        self._facts = Run(
            model=model, corpus=corpus, cost=self.cost, effort=_effort(settings), plan=self.plain.plan,
            by_layer=self.by_layer, n_probe=_n_tried(settings), quick=is_quick,
            again=self.kept.again if settings.target is not None else (),
        )  # fmt: skip
        self.rates = assumed(self.plain.threads)
        self.seconds = step_seconds(self._facts, self.rates)
        self._model_runs: Callable[[], object] = lambda: None
        self._gradient_relay: GradientRelay | None = None
        self._out: Output | None = None

    def check(self) -> None:
        """Raise what would keep the end from being reached: hours lie in between."""
        self.check_place()
        self._disk.check()
        check_unfinished(self._job.output, resume=self._job.resume)
        if self.settings.target is not None:
            check_target(self.settings.target, self.model, self._plan_of)

    def check_place(self) -> None:
        """Raise OutputError where the output cannot be written."""
        files = [file.path for file in self.model.files]
        check_output(self._job, files, self._file_nbytes())

    def _file_nbytes(self) -> int:
        """Bytes of the output, at most where a target will choose its types."""
        target, plan = self.settings.target or Target(), self.plain.plan
        if target.bpw is not None:
            return int(target.bpw * plan.n_weights / 8)
        return plan.file_nbytes if target.nbytes is None else target.nbytes

    def measure(self) -> None:
        """Have the time by what this machine does with one layer of the model, where that is worth some seconds. Where
        it cannot be tried, as where the weights are not there, the time stays as it is assumed."""
        if not self.by_layer or sum(self.seconds.values()) < _WORTH_MEASURING_S:
            return
        plan, folder = self.planned().plan, self._job.output.parent
        with suppress(GgufkitError, quant.QuantError, OSError):
            self.rates = measured_rates(
                self.model, plan, self.settings.effort, threads=self.plain.threads, device=self.settings.device,
                folder=folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir()),
            )  # fmt: skip
        self.seconds = step_seconds(dataclasses.replace(self._facts, plan=plan), self.rates)

    @property
    def said(self) -> FitCost:
        """What it takes, for plans."""
        here = dataclasses.replace(self._facts, again=self._here.again)
        return FitCost(
            effort=str(self.settings.effort), by_layer=self.by_layer, n_readings=self.cost.n_walks,
            seconds=dict(self.seconds), are_measured=self.rates.are_measured, memory_nbytes=self.cost.peak_nbytes,
            mapped_nbytes=self.cost.mapped_nbytes,
            disk_nbytes=self._disk.at_most(self._kept_at_once),
            kept_nbytes=self.kept.nbytes, kept_in=str(self._disk.notes.parent),
            again_nbytes=self._here.again_nbytes, again_seconds=again_seconds(here, self.rates),
        )  # fmt: skip

    def planned(self) -> Job:
        """What `--dry-run` shows: the job with its types, guessed where a target will choose them."""
        target = self.settings.target
        if target is None:
            return self.plain
        if target.kld is not None:
            name = self.plain.plan.name
            note = f"the types for --max-kld {target.kld:g} are chosen by measuring; shown is {name}"
            return dataclasses.replace(self.plain, notes=(*self.plain.notes, note))
        job = prepare(
            dataclasses.replace(self._job, recipe=guess(target, self.model, self._plan_of)), self.model, self.encoder
        )
        return dataclasses.replace(job, notes=(*job.notes, NOTE))

    def run(self, on_progress: OnProgress = ignore) -> FitReport:
        """Do it all. What is found out is kept beside the output until it is there, for a run that continues."""
        try:
            return self._run(on_progress)
        except CutError as error:
            whole = FittedJob(dataclasses.replace(self.settings, by_layer=False), self.model).run(on_progress)
            notes = (*whole.quantized.notes, f"{error}. It was run as a whole.")
            return dataclasses.replace(whole, quantized=dataclasses.replace(whole.quantized, notes=notes))

    def _run(self, on_progress: OnProgress) -> FitReport:
        """The same. Raises CutError, before any work, where the model cannot be run layer by layer."""
        started = time.perf_counter()
        self.check()
        self._job = dataclasses.replace(self._job, restart=False)  # done: what is found out from here on stays
        self.evidence.notebook = self._notebook()
        if self._job.source.is_dir():
            forget_copy(self._job.output, CALIBRATION_COPY)  # a killed run's
        steps = Steps(self.seconds, on_progress, turns(self.seconds, len(self.evidence.walks)))
        try:
            with ExitStack() as stack:  # the model is not needed where all that is asked of it was kept
                executor = stack.enter_context(working(self._job, self.model, self.plain.threads))
                if isinstance(self.source, LayerByLayer):
                    stack.callback(self.source.close)
                    self.source.start()
                    self._relay_on(self.source, executor)
                step = functools.partial(steps.step, QUICK)
                self._model_runs = functools.cache(
                    lambda: stack.enter_context(running_model(self._job, self.model, step))
                )
                self._read_on(steps, CALIBRATION)
                if WEIGHING in self.seconds:
                    self.evidence.on_weighed = _chunks(steps.step(WEIGHING), by_layer=self.by_layer)
                found = self._choose(steps, executor)
                recipe = found.recipe if found else self._job.recipe
                job = prepare(dataclasses.replace(self._job, recipe=recipe), self.model, self.encoder)
                resumed = self._encode(job, steps, executor)
                job = job.with_notes((*executor.notes, *self._gathered_again()))
        except KeyboardInterrupt as error:
            error.add_note(f"interrupted; kept: {self._kept()}")
            raise
        finally:
            if self._out is None:
                if self.evidence.notebook.is_empty:
                    self.evidence.notebook.discard()
                with suppress(OSError):  # what is not empty stays
                    kept_path(self._job.output).rmdir()
        tally = list(self.encoder.tally.values())
        seconds = time.perf_counter() - started
        return FitReport(
            quantized=report_of(job, resumed, seconds),
            found=found,
            texts=self.texts,
            n_walks=self.cost.n_walks,
            coverage=self.evidence.coverage,
            rows_fitted=sum(row["fitted"] for row in tally),
            rows_plain=sum(row["plain"] for row in tally),
            seconds=seconds,
        )

    def _notebook(self) -> Notebook:
        """Beside the output until that is complete; or where it stays, in a folder of its own for each identity."""
        stays = self.settings.evidence is not None
        book = Notebook(self._disk.notes, self._identity(), owed=self._disk.owed, stays=stays)
        kept_path(self._job.output).mkdir(exist_ok=True)  # the stream's place, wherever notes are kept
        return book

    def _notes_folder(self) -> Path:
        """Where the notebook is, or will be."""
        if self.settings.evidence is None:
            return kept_path(self._job.output)
        return self.settings.evidence / self._identity()[:16]

    @property
    def _kept_at_once(self) -> int:
        """Bytes of moments in the notebook: those of a reading in hand are written beside what was kept of it."""
        if self.by_layer or not self.kept.nbytes:
            return self.kept.nbytes
        return self.kept.nbytes + walks_nbytes(self.evidence.walks, self.evidence.shapes)

    def _kept_in(self, room: int) -> Kept:
        """What of all moments will wait in so many bytes until types are known, or stay for other files."""
        wants_all = self.settings.target is not None or self.settings.evidence is not None
        if not wants_all or not self.evidence.with_moments:
            return Kept()
        return kept_in(room, self.evidence.walks, self.evidence.shapes)

    def _identity(self) -> str:
        """Digest of all that decides evidence and measurements."""
        evidence = self.evidence
        kinds = _effort(self.settings) is Effort.FAST, self.settings.effort is Effort.FAST
        facts = (sorted(self.model.source.items()), evidence.source.identity, evidence.shapes, kinds, code_digest())
        return hashlib.sha256(f"{__version__} {facts}".encode()).hexdigest()

    def _choose(self, steps: Steps, executor: Executor) -> Found | None:
        if self.settings.target is None:
            return None

        def ready() -> None:
            self._run_model()
            self._read_on(steps, AGAIN_TO_TRY)

        found = types_for_target(
            self.settings.target, self.model, self.evidence, plan_of=self._plan_of,
            n_probe=self.settings.n_probe, ready=ready, on_progress=steps.step(TYPES), on_tried=steps.step(TRYING),
            cluster=executor.cluster,
        )  # fmt: skip
        self._read_on(steps, AGAIN)
        return found

    def _encode(self, job: Job, steps: Steps, executor: Executor) -> int:
        """Walk after walk: gather, then encode what was gathered for. Returns the bytes that were there before."""
        walks = self.evidence.walks
        plain = frozenset(t.name for t in job.plan.tensors).difference(*walks)
        with Output(job, steps.step(ENCODING), executor) as out:
            self._out = out
            if isinstance(self.source, LayerByLayer):
                self.source.stored = stored_model(job)
            for names in walks:
                needs_moments = self.settings.effort is not Effort.FAST and bool(out.todo(names))
                (self.evidence.hold if needs_moments else self.evidence.know)(names)
                out.encode(self.encoder, names | plain)  # plain ones with the first: nothing is told of before it
                plain = frozenset()
                self.evidence.drop(names)
            out.encode(self.encoder, plain)
            out.finish(self.encoder)
        return out.resumed_nbytes

    def _relay_on(self, source: LayerByLayer, executor: Executor) -> None:
        """Have layers run by the workers of other machines, where there are any; those of this one add no cores."""
        if not self._job.cluster or executor.cluster is None:
            return
        at_once = LayersAtOnce(executor.cluster, source.threads)
        self._gradient_relay = GradientRelay(at_once, self._disk.spare)
        if self.settings.stream is Stream.ORIGINAL:
            self.evidence.ahead = Relay(at_once, source, self.evidence)

    def _weigh(self, on_chunk: OnChunk) -> TokenWeights:
        if isinstance(self.source, LayerByLayer):
            settings = gradient_settings(self.model, self.source, self._disk.gradients, self.plain.threads)
            return LayerGradients(self.model, self.source.chunks, settings).measure(on_chunk, self._gradient_relay)
        self._model_runs()
        return weigher(self.evidence.source.corpus, self.model)(on_chunk)

    def _run_model(self) -> None:
        """Before the model is opened: the file that runs is there from now on."""
        self._model_runs()

    def _read_on(self, steps: Steps, name: str) -> None:
        """From here on readings of the text are that step; they tell how far it has come."""
        evidence, walks, on_progress = self.evidence, self.evidence.walks, steps.step(name)
        again = Regathering(1 + max(map(walks.index, self.kept.again), default=len(walks) - 1))

        def on_chunk(done: int, total: int) -> None:
            part, what = (evidence.walk_in_hand + done / total) / len(walks), f"chunk {done} of {total}"
            if name != CALIBRATION:
                part, what = again.fraction(evidence.walk_in_hand, done / total), f"{what}, read again"
            on_progress(Progress(part, 1, "readings", what))

        evidence.on_chunk = on_chunk

    def _gathered_again(self) -> tuple[str, ...]:
        """What a person should know of a disk without room."""
        if not self.evidence.n_again:
            return ()
        where, n = self._disk.notes.parent, self.evidence.n_again
        return (f"{where} had no room for all moments until types were known: {n} readings were done again",)

    def _kept(self) -> str:
        """What a run that continues need not do again."""
        parts = [self.evidence.kept]
        if self.evidence.notebook.n_values:
            parts.append(f"{self.evidence.notebook.n_values} measurements of types")
        if self._out is not None:
            parts.append(f"{100 * self._out.part_done:.0f} % of the file")
        return ", ".join(parts)

    def _plan_of(self, recipe: Recipe) -> QuantPlan:
        return prepare(dataclasses.replace(self._job, recipe=recipe), self.model, self.encoder).plan


@contextmanager
def opened(settings: FitSettings, *, outline: bool = False, placed: bool = True) -> Iterator[FittedJob]:
    """The job, while its source is open. Raises what `quantize` raises before its first byte.

    outline  see `open_source`: a job that can be planned and not done
    placed   see `FittedJob`
    """
    with settings.quantize.open(outline=outline) as model:
        yield FittedJob(settings, model, placed=placed)


def quantize_fitted(settings: FitSettings, on_progress: OnProgress = ignore) -> FitReport:
    """Do it all. Raises what `quantize`, `calibrate` and `search` raise."""
    with opened(settings) as job:
        return job.run(on_progress)


def cost_of(settings: FitSettings) -> EffortCost:
    """What `quantize_fitted` will cost with these settings; reads headers only. Raises UsageError where the memory
    does not suffice."""
    with opened(settings) as job:
        return job.cost


def _cost(settings: FitSettings, model: Model, n_tokens: int | None) -> EffortCost:
    plan = make_plan(model, settings.quantize.recipe, importance=shapes_of(model))
    job = settings.quantize
    return effort_cost(
        model, plan, _effort(settings), threads=threads_of(job), max_memory=cap_of(settings), n_tokens=n_tokens,
        n_workers=job.workers,
    )  # fmt: skip


def _effort(settings: FitSettings) -> Effort:
    """What evidence is needed: types are chosen with second moments, whatever the effort."""
    return Effort.BALANCED if settings.target and settings.effort is Effort.FAST else settings.effort


def cap_of(settings: FitSettings) -> int:
    """Resident bytes that may be used."""
    return settings.quantize.max_memory or max(DEFAULT_MAX_MEMORY, machine.memory().total // 2)


def _n_tried(settings: FitSettings) -> int | None:
    """Chunks that a choice of types is tried on, None where none is made."""
    if settings.target is None:
        return None
    return 0 if settings.target.kld is None else settings.n_probe


def _chunks(on_progress: OnProgress, *, by_layer: bool) -> OnChunk:
    """Whom gradients tell of chunks, or of readings of a chunk by a layer, which nobody counts."""

    def on_chunk(done: int, total: int) -> None:
        on_progress(Progress(done, total, "chunks", "" if by_layer else f"chunk {done} of {total}"))

    return on_chunk
