"""`quantize`: a checkpoint goes in, a finished GGUF comes out, in one pass and within a stated memory.

Knows the order of the steps: open, plan, check space and memory, encode, finish. Does not print, does not know click.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.encoding.encoder import RowEncoder, plain_encoder
from ggufkit.encoding.executors.opening import opened as working
from ggufkit.encoding.job import Job, check_place, prepare, write
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.progress import OnProgress, ignore
from ggufkit.recipes.advice import fallback_note
from ggufkit.recipes.plan import QuantPlan

MOST_LINES = 4  # tensors that are left out for one reason, before they share a line


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


def quantize(settings: QuantizeSettings, on_progress: OnProgress = ignore) -> QuantizeReport:
    """Make the file. Raises InputError for a bad source, OutputError for a bad place, UsageError for bad settings.

    The result is under its final name only when it is complete; see `encoding.job.Output`.
    """
    with settings.open() as model:
        encoder = plain_encoder(settings, model)
        return encode(prepare(settings, model, encoder), encoder, on_progress)


def encode(job: Job, encoder: RowEncoder, on_progress: OnProgress = ignore) -> QuantizeReport:
    """The same for a job that is prepared, with any encoder."""
    started = time.perf_counter()
    check_place(job)  # before a cluster is asked
    with working(job.settings, job.model, job.threads) as executor:
        resumed = write(job, encoder, on_progress, executor)
        job = job.with_notes(executor.notes)
    return report_of(job, resumed, time.perf_counter() - started)


def report_of(job: Job, resumed_nbytes: int, seconds: float) -> QuantizeReport:
    """The report of a job that is done."""
    return QuantizeReport(
        plan=job.plan,
        output=job.settings.output,
        seconds=seconds,
        resumed_nbytes=resumed_nbytes,
        n_weights=job.plan.n_weights,
        source_nbytes=job.model.source_nbytes,
        notes=notes(job),
    )


@contextmanager
def opened(settings: QuantizeSettings, *, outline: bool = False) -> Iterator[Job]:
    """The job that `quantize` would do, while its source is open.

    outline  see `open_source`: a job that can be planned and not done
    """
    with settings.open(outline=outline) as model:
        yield prepare(settings, model, plain_encoder(settings, model))


def _left_out(dropped: Mapping[str, str]) -> Iterator[str]:
    """A line for each tensor, or one for all that share a reason where they are many (a vision tower)."""
    for reason in dict.fromkeys(dropped.values()):
        names = [name for name, why in dropped.items() if why == reason]
        if len(names) > MOST_LINES:
            yield f"{len(names)} tensors ({names[0]} and others) left out: {reason}"
        else:
            yield from (f"{name} left out: {reason}" for name in names)


def notes(job: Job) -> tuple[str, ...]:
    """What a person should know of a job, before the start and after the end."""
    tensors = job.plan.tensors
    lines = [*_left_out(job.model.dropped), *job.model.notes]
    floats = ("F32", "F16", "BF16")
    lossy = {t.tensor.dtype for t in tensors if t.tensor.dtype not in (*floats, t.qtype.name)}
    if lossy:
        lines.append(f"the source is {', '.join(sorted(lossy))} already; its loss stays in the result")
    lines += filter(None, [fallback_note(job.model, job.plan, job.covers)])
    lines += job.notes
    if job.covers is not None:
        uncovered = [t.name for t in tensors if t.qtype.is_quantized and t.name not in job.covers]
        if uncovered:
            lines.append(f"no importance for {len(uncovered)} tensors, {', '.join(uncovered[:3])} among them")
    return tuple(lines)
