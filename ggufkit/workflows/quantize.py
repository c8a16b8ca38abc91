"""`quantize`: a checkpoint goes in, a finished GGUF comes out, in one pass and within a stated memory.

Knows the order of the steps: open, plan, check space and memory, encode, finish. Does not print, does not know click.
"""

import time
from collections.abc import Callable, Container
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

import quant
from ggufkit.architectures.source import open_source
from ggufkit.encoding import pipeline
from ggufkit.encoding.destination import check_output, forget_copy
from ggufkit.encoding.memory import slab_size
from ggufkit.encoding.provenance import identity, provenance
from ggufkit.encoding.settings import DEFAULT_MAX_MEMORY, QuantizeSettings
from ggufkit.errors import ImatrixError, InputError, OutputError
from ggufkit.formats.gguf_writer import header_bytes
from ggufkit.formats.imatrix import Imatrix, read_imatrix
from ggufkit.formats.model import Model
from ggufkit.formats.partial import PartialFile, partial_path
from ggufkit.recipes.build import make_plan, tensor_rows
from ggufkit.recipes.plan import QuantPlan
from ggufkit.runtime import machine

__all__ = ["DEFAULT_MAX_MEMORY", "Job", "Progress", "QuantizeReport", "QuantizeSettings", "prepare", "quantize"]


class Progress(NamedTuple):
    """Bytes of the output that are done, of how many, and the tensor in work."""

    done_nbytes: int
    total_nbytes: int
    tensor: str


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """What was made."""

    plan: QuantPlan
    output: Path
    seconds: float
    resumed_nbytes: int
    n_weights: int
    source_nbytes: int
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Job:
    """Everything known before the first byte is encoded: what `--dry-run` shows."""

    model: Model
    plan: QuantPlan
    imatrix: Imatrix | None
    threads: int
    slab_weights: int
    peak_nbytes: int
    identity: str


def prepare(settings: QuantizeSettings) -> Job:
    """Open the source, plan the output, size the slabs. Reads headers only; writes nothing."""
    model = open_source(settings.source, allow_requantize=settings.allow_requantize)
    imatrix = _matching_imatrix(settings, model)
    extra = provenance(settings, model, imatrix) if settings.provenance else ()
    plan = make_plan(model, settings.recipe, importance=_covered(settings, imatrix), extra_metadata=extra)
    threads = settings.threads or machine.choose_threads().n
    fitting = settings.fitting
    held = fitting.held_nbytes if fitting else settings.imatrix.stat().st_size if settings.imatrix else 0
    per_weight = fitting.bytes_per_weight if fitting else pipeline.BYTES_PER_WEIGHT
    slab_weights, peak = slab_size(
        plan, threads, settings.max_memory or DEFAULT_MAX_MEMORY, held_nbytes=held, bytes_per_weight=per_weight
    )
    return Job(
        model, plan, imatrix, threads, slab_weights, peak, identity(settings, model, output_header(plan), imatrix)
    )


def quantize(settings: QuantizeSettings, on_progress: Callable[[Progress], None] = lambda _: None) -> QuantizeReport:
    """Make the file. Raises InputError for a bad source, OutputError for a bad place, UsageError for bad settings.

    The result is under its final name only when it is complete. Ctrl-C or a crash leaves `OUTPUT.partial` and its
    journal, which `resume` continues to the same bytes.
    """
    started = time.perf_counter()
    job = prepare(settings)
    try:
        resumed = _write(settings, job, on_progress)
    finally:
        for file in job.model.files:
            file.close()
    return QuantizeReport(
        plan=job.plan,
        output=settings.output,
        seconds=time.perf_counter() - started,
        resumed_nbytes=resumed,
        n_weights=job.plan.n_weights,
        source_nbytes=job.model.source_nbytes,
        notes=notes(job),
    )


def _write(settings: QuantizeSettings, job: Job, on_progress: Callable[[Progress], None]) -> int:
    header = output_header(job.plan)
    check_output(settings, (file.path for file in job.model.files), job.plan.file_nbytes)
    forget_copy(settings.output, "check")

    def on_verified(done: int, total: int) -> None:
        on_progress(Progress(done, total, "looking through what is there"))

    with closing(
        PartialFile(
            settings.output, job.plan.file_nbytes, job.identity, resume=settings.resume, on_verified=on_verified
        )
    ) as out:
        resumed = out.done_nbytes
        if not out.kept(0, len(header)):
            out.write(0, np.frombuffer(header, dtype=np.uint8))
        plain = pipeline.PlainEncoder(job.imatrix, settings.encoder, settings.allow_nonfinite)
        encoder = settings.fitting or plain

        def on_slab(slab: pipeline.Slab) -> None:
            on_progress(Progress(out.done_nbytes, job.plan.file_nbytes, slab.planned.name))

        try:
            pipeline.run(
                job.plan, out, encoder,
                threads=job.threads, slab_weights=job.slab_weights,
                allow_nonfinite=settings.allow_nonfinite, on_slab=on_slab,
            )  # fmt: skip
        except (InputError, quant.QuantError) as error:
            if not isinstance(error.__cause__, OSError):  # a disk that went away may come back, with --resume
                out.discard()  # the source is at fault; no resume can help
            raise
        except OSError as error:
            raise OutputError(
                f"{partial_path(settings.output)}: {error.strerror}. What is written is kept; "
                "make room and run again with --resume."
            ) from error
        out.finish()
    return resumed


def _covered(settings: QuantizeSettings, imatrix: Imatrix | None) -> Container[str] | None:
    """Names of the tensors that have importance, None where there is none at all."""
    if settings.fitting is not None:
        return settings.fitting.covers
    return imatrix.entries if imatrix else None


def output_header(plan: QuantPlan) -> bytes:
    """Everything before the tensor data."""
    return header_bytes(plan.metadata, tensor_rows(plan.tensors), plan.alignment)


def _matching_imatrix(settings: QuantizeSettings, model: Model) -> Imatrix | None:
    if settings.imatrix is None:
        return None
    if not settings.imatrix.exists():
        raise ImatrixError(f"{settings.imatrix} does not exist. Pass the importance file that goes with this model.")
    imatrix = read_imatrix(settings.imatrix)
    try:
        return imatrix.check_matches(model)
    except ImatrixError as error:
        raise ImatrixError(f"{settings.imatrix}: {error}") from error


def notes(job: Job) -> tuple[str, ...]:
    """What a person should know of a job, before the start and after the end."""
    tensors = job.plan.tensors
    lines = [f"{name} left out: {reason}" for name, reason in job.model.dropped.items()]
    lines += job.model.notes
    floats = ("F32", "F16", "BF16")
    lossy = {t.tensor.dtype for t in tensors if t.tensor.dtype not in (*floats, t.qtype.name)}
    if lossy:
        lines.append(f"the source is {', '.join(sorted(lossy))} already; its loss stays in the result")
    if job.imatrix is not None:
        lines += job.imatrix.notes
        uncovered = [t.name for t in tensors if t.qtype.is_quantized and t.name not in job.imatrix.entries]
        if uncovered:
            lines.append(f"no importance for {len(uncovered)} tensors, {', '.join(uncovered[:3])} among them")
    return tuple(lines)
