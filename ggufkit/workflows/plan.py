"""`plan`: what every tensor would become, how large the file is, what it takes to make it and to run it.

Reads headers only. Does not print, encodes nothing; where it goes wrong, `quantize` would too.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.encoding.encoder import PlainEncoder
from ggufkit.encoding.job import Job, prepare
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import UsageError
from ggufkit.fitting.guess import NOTE, guess
from ggufkit.formats.model import Hparams
from ggufkit.recipes.recipe import Recipe
from ggufkit.recipes.search import Target
from ggufkit.runtime import machine, memory
from ggufkit.workflows.quantize import notes, opened

if TYPE_CHECKING:
    from ggufkit.fitting.encoders import Effort

CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One tensor: what it is, what it becomes and why. Shape in numpy order."""

    name: str
    shape: tuple[int, ...]
    source_type: str
    type: str
    nbytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Headroom:
    """Whether the result runs on a machine.

    memory_nbytes  of the machine, all of it; a tenth is left to others
    largest_ctx    longest context that fits, at most the one of training; 0: it does not run here
    needs          context length -> bytes that running takes: weights, F16 keys and values, room to compute
    """

    memory_nbytes: int
    largest_ctx: int
    n_ctx_train: int
    needs: dict[int, int]


@dataclass(frozen=True, slots=True)
class FitCost:
    """What calibrating and fitting take, said beforehand.

    n_readings     of the text; of each layer, the most that one takes, where the model is run by layer
    seconds        by step, in the order of the run
    are_measured   by what this machine did with a layer of this model; else assumed, by what another machine did
    mapped_nbytes  of weights that are run at a time, besides the memory
    disk_nbytes    beside the output on the way, at most
    kept_nbytes    of it, moments that are kept until types are known, or for other files; less room does not end a run
    kept_in        where they are, by its disk as it is now
    again_nbytes   of moments that find no room there, and are gathered again when types are known
    again_seconds  that this takes: in `seconds` of a run, and not in those of a plan, whose output may go anywhere
    """

    effort: str
    by_layer: bool
    n_readings: int
    seconds: dict[str, float]
    are_measured: bool
    memory_nbytes: int
    mapped_nbytes: int
    disk_nbytes: int
    kept_nbytes: int
    kept_in: str
    again_nbytes: int
    again_seconds: float


@dataclass(frozen=True, slots=True)
class PlanReport:
    """A planned file.

    source_nbytes  of the tensors that are read
    disk_nbytes    free space that the file takes; nothing else is written, but what `fitting` says
    peak_nbytes    resident memory of making it, with `threads` threads
    notes          what a person should know before the start
    fitting        what calibrating and fitting take on top, where an effort is asked for
    nbytes_by_type bytes of tensors of each type, largest first
    """

    type: str
    arch: str
    n_weights: int
    bpw: float
    file_nbytes: int
    source_nbytes: int
    disk_nbytes: int
    peak_nbytes: int
    threads: int
    fit: Headroom
    fitting: FitCost | None
    notes: tuple[str, ...]
    nbytes_by_type: dict[str, int]
    tensors: tuple[PlanRow, ...]


def plan(
    source: Path,
    recipe: Recipe | str = "Q4_K_M",
    *,
    imatrix: Path | None = None,
    threads: int = 0,
    max_memory: int | None = None,
    allow_requantize: bool = False,
    mtp: bool = True,
    target: Target | None = None,
    lora: tuple[tuple[Path, float], ...] = (),
    effort: "Effort | None" = None,
    n_tokens: int | None = None,
) -> PlanReport:
    """Plan the quantization of `source`. Raises what `quantize` would raise before its first byte.

    target    a size to choose types for instead of `recipe`; without measuring, so they are a guess
    effort    of calibration and fitting, which are planned, too: one layer is run to see how fast this machine is
    n_tokens  of the calibration text at most; None takes what `quantize` does
    """
    settings = QuantizeSettings(
        source=source,
        output=source,
        recipe=recipe,
        imatrix=imatrix,
        threads=threads,
        max_memory=max_memory,
        allow_requantize=allow_requantize,
        mtp=mtp,
        lora=lora,
    )
    if effort is not None:
        return _fitted(settings, effort, target, n_tokens)
    with opened(settings, outline=True) as job:
        if target is None:
            return plan_report(job)
        return plan_report(_guessed(job, target), guessed=True)


def _fitted(settings: QuantizeSettings, effort: "Effort", target: Target | None, n_tokens: int | None) -> PlanReport:
    from ggufkit.workflows.fit_plan import opened as fit_opened
    from ggufkit.workflows.fit_settings import N_TOKENS, FitSettings

    if settings.imatrix is not None:
        raise UsageError("--imatrix and --effort exclude each other: calibration gathers its own evidence.")
    fit = FitSettings(quantize=settings, effort=effort, target=target, n_tokens=n_tokens or N_TOKENS)
    with fit_opened(fit, outline=True, placed=False) as fit_plan:
        fit_plan.measure()
        return plan_report(fit_plan.planned(), fitting=fit_plan.said)


def _guessed(job: Job, target: Target) -> Job:
    """The job with guessed types."""

    def job_of(recipe: Recipe) -> Job:
        return prepare(dataclasses.replace(job.settings, recipe=recipe, imatrix=None), job.model, PlainEncoder())

    return job_of(guess(target, job.model, lambda recipe: job_of(recipe).plan))


def plan_report(
    job: Job, *, memory_nbytes: int | None = None, guessed: bool = False, fitting: FitCost | None = None
) -> PlanReport:
    """The report of a prepared job, for a machine of `memory_nbytes`; None takes this machine's.

    fitting  what it takes where it is fitted
    guessed  types for a size that nobody has measured yet; a note says so
    """
    tensors = job.plan.tensors
    weights_nbytes = sum(t.nbytes for t in tensors)
    return PlanReport(
        type=job.plan.name,
        arch=job.model.hparams.arch,
        n_weights=job.plan.n_weights,
        bpw=job.plan.bpw,
        file_nbytes=job.plan.file_nbytes,
        source_nbytes=job.model.source_nbytes,
        disk_nbytes=job.plan.file_nbytes,
        peak_nbytes=max(job.peak_nbytes, fitting.memory_nbytes if fitting else 0),
        threads=job.threads,
        fit=headroom(job.model.hparams, weights_nbytes, memory_nbytes or machine.memory().total),
        fitting=fitting,
        notes=(*notes(job), *([NOTE] if guessed else [])),
        nbytes_by_type=job.plan.nbytes_by_type,
        tensors=tuple(
            PlanRow(t.name, t.tensor.shape, t.tensor.dtype, t.qtype.name, t.nbytes, t.reason) for t in tensors
        ),
    )


def headroom(hparams: Hparams, weights_nbytes: int, memory_nbytes: int) -> Headroom:
    """What running takes at the usual contexts up to the training length, and the longest context that fits."""
    n_train = hparams.n_ctx_train
    contexts = [n_ctx for n_ctx in CONTEXTS if n_ctx < n_train] + ([n_train] if n_train else [])
    return Headroom(
        memory_nbytes=memory_nbytes,
        largest_ctx=memory.largest_ctx(memory_nbytes, weights_nbytes, hparams),
        n_ctx_train=n_train,
        needs={n_ctx: memory.run_nbytes(weights_nbytes, hparams, n_ctx) for n_ctx in contexts},
    )
