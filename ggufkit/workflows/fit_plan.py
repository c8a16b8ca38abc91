"""`FitPlan`: a fitted run before the model runs: its parts, what it costs and whether it can reach its end.

Reads headers and the text; measures one layer where time is asked for. Does not run the model, does not write.
"""

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import quant
from ggufkit import __version__
from ggufkit.encoding.destination import check_output
from ggufkit.encoding.job import Job, prepare, threads_of
from ggufkit.encoding.provenance import code_digest
from ggufkit.encoding.running import CALIBRATION_COPY, quick_type, running_path
from ggufkit.errors import GgufkitError, UsageError
from ggufkit.fitting.choice import check_target
from ggufkit.fitting.corpus import Corpus, texts
from ggufkit.fitting.cost import EffortCost, effort_cost, shapes_of, weighed_tokens
from ggufkit.fitting.couplings import groups_of
from ggufkit.fitting.disk import Disk, Needs
from ggufkit.fitting.duration import Run, again_seconds, step_seconds
from ggufkit.fitting.encoders import Effort, encoder_for
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.guess import NOTE, guess
from ggufkit.fitting.keeping import Kept, kept_in
from ggufkit.fitting.rates import assumed
from ggufkit.fitting.sources.cut import is_cuttable
from ggufkit.fitting.sources.layer_by_layer import LayerByLayer, Stream
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.fitting.timing import measured_rates
from ggufkit.fitting.walks import walks_nbytes
from ggufkit.formats.model import Model
from ggufkit.formats.unfinished import check_unfinished, kept_path
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.plan import QuantPlan
from ggufkit.recipes.recipe import Recipe
from ggufkit.recipes.search import Target
from ggufkit.workflows.fit_settings import FitSettings
from ggufkit.workflows.plan import FitCost

_BYTES_PER_TOKEN = 3  # of the text, fewer than most tokenizers take, where a disk is planned for
_WORTH_MEASURING_S = 20.0  # of a run, below which its time is assumed
_HEADER_NBYTES = 1 << 20  # what a file owes to calibration is in its header, and not in the plan that is costed


class FitPlan:
    """All that is known before the model runs: what `--dry-run` shows. See `opened`.

    job       what is encoded, in the memory that the run takes; a target replaces its recipe
    plain     the job with the types that `settings.quantize` names
    seconds   that each step is thought to take, by its name in the order of the run
    kept      moments that wait on the disk
    placed    whether the output goes where the settings say: else its disk is taken to have room
    """

    def __init__(self, settings: FitSettings, model: Model, *, placed: bool = True) -> None:
        self.settings, self.model = settings, model
        text, self.texts = texts(settings.text)
        self.by_layer = settings.by_layer and is_cuttable(model)
        _check_stream(settings, self.by_layer)
        n_tokens = settings.n_tokens or len(text.encode()) // _BYTES_PER_TOKEN
        self.cost = _cost(settings, model, n_tokens if self.by_layer else None)
        max_memory = self.cost.peak_nbytes + _HEADER_NBYTES
        self.job = dataclasses.replace(settings.quantize, imatrix=None, max_memory=max_memory)
        runs_whole = not self.by_layer or bool(settings.n_tried)
        is_quick = self.job.source.is_dir() and runs_whole
        corpus = Corpus(
            running_path(self.job, CALIBRATION_COPY), text, n_tokens=settings.n_tokens,
            threads=self.job.threads or None, device=settings.device, type_name=quick_type(model) if is_quick else "",
            is_judged=settings.gathers_for is not Effort.FAST,
        )  # fmt: skip
        self.source = self._source(corpus)
        self.evidence = Evidence(
            self.source, shapes_of(model), moments=settings.gathers_for is not Effort.FAST,
            sums=not settings.is_fitted, fitted=settings.is_fitted, max_nbytes=self.cost.budget_nbytes,
            groups=groups_of(model) if settings.is_fitted else {},
        )  # fmt: skip
        self.encoder = encoder_for(
            settings.effort, self.evidence, held_nbytes=self.cost.held_nbytes, name=self.job.encoder
        )
        self.plain = prepare(self.job, model, self.encoder)
        n_weighed = weighed_tokens(model, n_tokens, by_layer=self.by_layer) if self.evidence.with_moments else 0
        needs = Needs.of(model, self.cost, n_weighed=n_weighed, by_layer=self.by_layer, quick=is_quick)
        self.disk = Disk(self.job.output, self._notes_folder(), self.file_nbytes, needs)
        self._here = self._kept_in(self.disk.room())
        self.kept = self._here if placed else self._kept_in(1 << 62)
        self._facts = Run(
            model=model, corpus=corpus, cost=self.cost, effort=settings.gathers_for, plan=self.plain.plan,
            by_layer=self.by_layer, fitted=settings.is_fitted, n_probe=settings.n_tried, quick=is_quick,
            again=self.kept.again if settings.target is not None else (),
        )  # fmt: skip
        self.rates = assumed(self.plain.threads)
        self.seconds = step_seconds(self._facts, self.rates)

    def _source(self, corpus: Corpus) -> LayerByLayer | WholeModel:
        if not self.by_layer:
            return WholeModel(corpus)
        return LayerByLayer(self.model, corpus, kept_path(self.job.output) / "layers", stream=self.settings.stream)

    def check(self) -> None:
        """Raise what would keep the end from being reached: hours lie in between."""
        self.check_place()
        self.disk.check()
        check_unfinished(self.job.output, resume=self.job.resume)
        if self.settings.target is not None:
            check_target(self.settings.target, self.model, self.plan_of)

    def check_place(self) -> None:
        """Raise OutputError where the output cannot be written."""
        files = [file.path for file in self.model.files]
        check_output(self.job, files, self.file_nbytes)

    @property
    def file_nbytes(self) -> int:
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
        plan, folder = self.planned().plan, self.job.output.parent
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
            disk_nbytes=self.disk.at_most(self._kept_at_once),
            kept_nbytes=self.kept.nbytes, kept_in=str(self.disk.notes.parent),
            again_nbytes=self._here.again_nbytes, again_seconds=again_seconds(here, self.rates),
        )  # fmt: skip

    def planned(self) -> Job:
        """What `--dry-run` shows: the job with its types, guessed where a target will choose them."""
        target = self.settings.target
        if target is None:
            return self.plain
        if target.kld is not None:
            name = self.plain.plan.name
            return self.plain.with_notes(
                (f"the types for --max-kld {target.kld:g} are chosen by measuring; shown is {name}",)
            )
        return self.job_of(guess(target, self.model, self.plan_of)).with_notes((NOTE,))

    def job_of(self, recipe: Recipe | str) -> Job:
        """The job with those types."""
        return prepare(dataclasses.replace(self.job, recipe=recipe), self.model, self.encoder)

    def plan_of(self, recipe: Recipe) -> QuantPlan:
        """Its plan."""
        return self.job_of(recipe).plan

    @property
    def identity(self) -> str:
        """Digest of all that decides evidence and measurements."""
        evidence, settings = self.evidence, self.settings
        kinds = settings.gathers_for is Effort.FAST, not settings.is_fitted
        facts = (sorted(self.model.source.items()), evidence.source.identity, evidence.shapes, kinds, code_digest())
        return hashlib.sha256(f"{__version__} {facts}".encode()).hexdigest()

    def _notes_folder(self) -> Path:
        """Where the notebook is, or will be."""
        if self.settings.evidence is None:
            return kept_path(self.job.output)
        return self.settings.evidence / self.identity[:16]

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


@contextmanager
def opened(settings: FitSettings, *, outline: bool = False, placed: bool = True) -> Iterator[FitPlan]:
    """The plan, while its source is open. Raises what `quantize` raises before its first byte.

    outline  see `open_source`: a run that can be planned and not done
    placed   see `FitPlan`
    """
    with settings.quantize.open(outline=outline) as model:
        yield FitPlan(settings, model, placed=placed)


def _check_stream(settings: FitSettings, by_layer: bool) -> None:
    fits = by_layer and settings.target is None and settings.is_fitted
    if settings.stream is Stream.STORED and not fits:
        raise UsageError(
            "--stream stored goes with --effort balanced or best, with given types, and with families that are run "
            "layer by layer. Leave it out."
        )


def _cost(settings: FitSettings, model: Model, n_tokens: int | None) -> EffortCost:
    plan = make_plan(model, settings.quantize.recipe, importance=shapes_of(model))
    job = settings.quantize
    return effort_cost(
        model, plan, settings.gathers_for, threads=threads_of(job), max_memory=settings.max_memory,
        n_tokens=n_tokens, n_workers=job.workers,
    )  # fmt: skip
