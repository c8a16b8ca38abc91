"""`quantize_fitted`: calibrate, choose types where a target asks for it, and encode, in one command.

    source, layer by layer ──► evidence from the text ──► types under the target ──► the final encoding

A family that cannot be cut into layers is run as a whole, and so is the model that a divergence is tried on: the
source where it is a GGUF, else a quick quantized file beside the output, deleted at the end. Knows the order of the
steps. Does not print.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from ggufkit.encoding.destination import forget_copy
from ggufkit.encoding.executors import Executor
from ggufkit.encoding.executors.opening import opened as working
from ggufkit.encoding.job import Job, Output
from ggufkit.encoding.running import CALIBRATION_COPY, running_model, stored_model
from ggufkit.errors import CutError
from ggufkit.fitting.choice import types_for_target
from ggufkit.fitting.coverage import Coverage
from ggufkit.fitting.duration import CALIBRATION, ENCODING, QUICK, TRYING, TYPES, WEIGHING, turns
from ggufkit.fitting.gradient_relay import GradientRelay
from ggufkit.fitting.keeping import AGAIN, AGAIN_TO_TRY, Regathering
from ggufkit.fitting.layer_gradients import LayerGradients
from ggufkit.fitting.layers_at_once import LayersAtOnce
from ggufkit.fitting.notebook import Notebook
from ggufkit.fitting.relay import Relay
from ggufkit.fitting.sources import OnChunk
from ggufkit.fitting.sources.layer_by_layer import LayerByLayer, Stream
from ggufkit.fitting.token_weights import TokenWeights
from ggufkit.fitting.weighing import gradient_settings, weigher
from ggufkit.formats.unfinished import kept_path
from ggufkit.progress import OnProgress, Progress, Steps, ignore
from ggufkit.recipes.search import Found
from ggufkit.workflows.fit_plan import FitPlan, opened
from ggufkit.workflows.fit_settings import FitSettings
from ggufkit.workflows.quantize import QuantizeReport, report_of


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


def quantize_fitted(settings: FitSettings, on_progress: OnProgress = ignore) -> FitReport:
    """Do it all. Raises what `quantize`, `calibrate` and `search` raise."""
    with opened(settings) as plan:
        return carry_out(plan, on_progress)


def carry_out(plan: FitPlan, on_progress: OnProgress = ignore) -> FitReport:
    """Do what was planned, once. What is found out is kept beside the output until it is there, for a run that
    continues."""
    try:
        return _Run(plan, on_progress).report()
    except CutError as error:
        as_a_whole = FitPlan(dataclasses.replace(plan.settings, by_layer=False), plan.model)
        whole = carry_out(as_a_whole, on_progress)
        notes = (*whole.quantized.notes, f"{error}. It was run as a whole.")
        return dataclasses.replace(whole, quantized=dataclasses.replace(whole.quantized, notes=notes))


class _Run:
    """A plan while it is carried out."""

    def __init__(self, plan: FitPlan, on_progress: OnProgress) -> None:
        self._plan, self._evidence, self._source = plan, plan.evidence, plan.source
        self._steps = Steps(plan.seconds, on_progress, turns(plan.seconds, len(plan.evidence.walks)))
        self._model_runs: Callable[[], object] = lambda: None
        self._gradient_relay: GradientRelay | None = None
        self._out: Output | None = None

    def report(self) -> FitReport:
        """Do it all. Raises CutError, before any work, where the model cannot be run layer by layer."""
        started, plan = time.perf_counter(), self._plan
        plan.check()
        plan.job = dataclasses.replace(plan.job, restart=False)  # done: what is found out from here on stays
        self._evidence.notebook = self._notebook()
        if plan.job.source.is_dir():
            forget_copy(plan.job.output, CALIBRATION_COPY)  # a killed run's
        try:
            with ExitStack() as stack:
                executor = self._begin(stack)
                found = self._choose(executor)
                job = plan.job_of(found.recipe if found else plan.job.recipe)
                resumed = self._encode(job, executor)
                job = job.with_notes((*executor.notes, *self._gathered_again()))
        except KeyboardInterrupt as error:
            error.add_note(f"interrupted; kept: {self._kept()}")
            raise
        finally:
            self._clear()
        tally = list(plan.encoder.tally.values())
        seconds = time.perf_counter() - started
        return FitReport(
            quantized=report_of(job, resumed, seconds),
            found=found,
            texts=plan.texts,
            n_walks=plan.cost.n_walks,
            coverage=self._evidence.coverage,
            rows_fitted=sum(row["fitted"] for row in tally),
            rows_plain=sum(row["plain"] for row in tally),
            seconds=seconds,
        )

    def _begin(self, stack: ExitStack) -> Executor:
        """Have all parts know of each other. The model itself is not needed where all that is asked of it was kept."""
        plan, evidence, source = self._plan, self._evidence, self._source
        executor = stack.enter_context(working(plan.job, plan.model, plan.plain.threads))
        if isinstance(source, LayerByLayer):
            stack.callback(source.close)
            source.start()
            self._relay_on(source, executor)
        else:
            source.ready = self._run_model
        step = functools.partial(self._steps.step, QUICK)
        self._model_runs = functools.cache(lambda: stack.enter_context(running_model(plan.job, plan.model, step)))
        self._read_on(CALIBRATION)
        evidence.weigh = self._weigh
        if WEIGHING in plan.seconds:
            evidence.on_weighed = _chunks(self._steps.step(WEIGHING), by_layer=plan.by_layer)
        return executor

    def _clear(self) -> None:
        """Leave no notes of a run that found nothing out, where it ended before its file was begun."""
        if self._out is None:
            if self._evidence.notebook.is_empty:
                self._evidence.notebook.discard()
            with suppress(OSError):  # what is not empty stays
                kept_path(self._plan.job.output).rmdir()

    def _notebook(self) -> Notebook:
        """Beside the output until that is complete; or where it stays, in a folder of its own for each identity."""
        disk, stays = self._plan.disk, self._plan.settings.evidence is not None
        book = Notebook(disk.notes, self._plan.identity, owed=disk.owed, stays=stays)
        kept_path(self._plan.job.output).mkdir(exist_ok=True)  # the stream's place, wherever notes are kept
        return book

    def _choose(self, executor: Executor) -> Found | None:
        settings, step = self._plan.settings, self._steps.step
        if settings.target is None:
            return None

        def ready() -> None:
            self._run_model()
            self._read_on(AGAIN_TO_TRY)

        found = types_for_target(
            settings.target, self._plan.model, self._evidence, plan_of=self._plan.plan_of, n_probe=settings.n_probe,
            ready=ready, on_progress=step(TYPES), on_tried=step(TRYING), cluster=executor.cluster,
        )  # fmt: skip
        self._read_on(AGAIN)
        return found

    def _encode(self, job: Job, executor: Executor) -> int:
        """Walk after walk: gather, then encode what was gathered for. Returns the bytes that were there before."""
        evidence, encoder = self._evidence, self._plan.encoder
        plain = frozenset(t.name for t in job.plan.tensors).difference(*evidence.walks)
        with Output(job, self._steps.step(ENCODING), executor) as out:
            self._out = out
            if isinstance(self._source, LayerByLayer):
                self._source.stored = stored_model(job)
            for names in evidence.walks:
                needs_moments = self._plan.settings.is_fitted and bool(out.todo(names))
                (evidence.hold if needs_moments else evidence.know)(names)
                out.encode(encoder, names | plain)  # plain ones with the first: nothing is told of before it
                plain = frozenset()
                evidence.drop(names)
            out.encode(encoder, plain)
            out.finish(encoder)
        return out.resumed_nbytes

    def _relay_on(self, source: LayerByLayer, executor: Executor) -> None:
        """Have layers run by the workers of other machines, where there are any; those of this one add no cores."""
        if not self._plan.job.cluster or executor.cluster is None:
            return
        at_once = LayersAtOnce(executor.cluster, source.threads)
        self._gradient_relay = GradientRelay(at_once, self._plan.disk.spare)
        if self._plan.settings.stream is Stream.ORIGINAL:
            self._evidence.ahead = Relay(at_once, source, self._evidence)

    def _weigh(self, on_chunk: OnChunk) -> TokenWeights:
        plan, source = self._plan, self._source
        if isinstance(source, LayerByLayer):
            settings = gradient_settings(plan.model, source, plan.disk.gradients, plan.plain.threads, self._evidence)
            return LayerGradients(plan.model, source.chunks, settings).measure(on_chunk, self._gradient_relay)
        self._model_runs()
        return weigher(source.corpus, plan.model, self._evidence.groups)(on_chunk)

    def _run_model(self) -> None:
        """Before the model is opened: the file that runs is there from now on."""
        self._model_runs()

    def _read_on(self, name: str) -> None:
        """From here on readings of the text are that step; they tell how far it has come."""
        evidence, walks, on_progress = self._evidence, self._evidence.walks, self._steps.step(name)
        again = Regathering(1 + max(map(walks.index, self._plan.kept.again), default=len(walks) - 1))

        def on_chunk(done: int, total: int) -> None:
            part, what = (evidence.walk_in_hand + done / total) / len(walks), f"chunk {done} of {total}"
            if name != CALIBRATION:
                part, what = again.fraction(evidence.walk_in_hand, done / total), f"{what}, read again"
            on_progress(Progress(part, 1, "readings", what))

        evidence.on_chunk = on_chunk

    def _gathered_again(self) -> tuple[str, ...]:
        """What a person should know of a disk without room."""
        if not self._evidence.n_again:
            return ()
        where, n = self._plan.disk.notes.parent, self._evidence.n_again
        return (f"{where} had no room for all moments until types were known: {n} readings were done again",)

    def _kept(self) -> str:
        """What a run that continues need not do again."""
        parts = [self._evidence.kept]
        if self._evidence.notebook.n_values:
            parts.append(f"{self._evidence.notebook.n_values} measurements of types")
        if self._out is not None:
            parts.append(f"{100 * self._out.part_done:.0f} % of the file")
        return ", ".join(parts)


def _chunks(on_progress: OnProgress, *, by_layer: bool) -> OnChunk:
    """Whom gradients tell of chunks, or of readings of a chunk by a layer, which nobody counts."""

    def on_chunk(done: int, total: int) -> None:
        on_progress(Progress(done, total, "chunks", "" if by_layer else f"chunk {done} of {total}"))

    return on_chunk
