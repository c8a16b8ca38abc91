"""A job: everything that is known before the first byte is encoded, and the output file while it is made.

    with open_source(…) as model:
        encoder = plain_encoder(settings, model)
        write(prepare(settings, model, encoder), encoder)

Whoever has evidence to gather in between opens an `Output` and has it encode some tensors at a time, in any order.
Does not print, does not know click.
"""

import dataclasses
import threading
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

import quant
from ggufkit.encoding.destination import check_output, forget_copy
from ggufkit.encoding.encoder import RowEncoder
from ggufkit.encoding.executors import Executor
from ggufkit.encoding.executors.threads import Threads
from ggufkit.encoding.memory import slab_size
from ggufkit.encoding.pipeline import encode_slabs
from ggufkit.encoding.provenance import identity, provenance
from ggufkit.encoding.settings import DEFAULT_MAX_MEMORY, QuantizeSettings
from ggufkit.encoding.slabs import Slab, slabs
from ggufkit.errors import InputError, OutputError
from ggufkit.formats.gguf_writer import header_bytes
from ggufkit.formats.model import Model
from ggufkit.formats.partial import PartialFile
from ggufkit.formats.unfinished import kept_path, partial_path
from ggufkit.progress import OnProgress, Progress, ignore
from ggufkit.recipes.build import make_plan, tensor_rows
from ggufkit.recipes.plan import QuantPlan
from ggufkit.runtime import machine
from ggufkit.runtime.checks import problems

_LOOKING = "looking through what is there"


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What `--dry-run` shows.

    covers  names of the tensors that have importance, None where there is none at all
    together  rows that are encoded together, by tensor
    notes   what a person should know of the encoder
    """

    settings: QuantizeSettings
    model: Model
    plan: QuantPlan
    covers: Container[str] | None
    notes: tuple[str, ...]
    threads: int
    slab_weights: int
    peak_nbytes: int
    identity: str
    together: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def with_notes(self, notes: Iterable[str]) -> "Job":
        """The same, with more to know."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))


def prepare(settings: QuantizeSettings, model: Model, encoder: RowEncoder) -> Job:
    """Plan the output and size the slabs. Reads headers only; writes nothing."""
    extra = provenance(settings, model, encoder) if settings.provenance else ()
    plan = make_plan(model, settings.recipe, importance=encoder.covers, extra_metadata=extra)
    _check_runs(settings.source, plan)
    threads = threads_of(settings)
    slab_weights, peak = slab_size(
        plan, Threads(threads).n_slabs, settings.max_memory or DEFAULT_MAX_MEMORY,
        held_nbytes=encoder.held_nbytes, bytes_per_weight=encoder.bytes_per_weight, n_workers=settings.workers,
        together=encoder.rows_together,
    )  # fmt: skip
    digest = identity(settings, model, _known_header(plan, encoder), encoder)
    return Job(
        settings, model, plan, encoder.covers, encoder.notes, threads, slab_weights, peak, digest, encoder.rows_together
    )


def threads_of(settings: QuantizeSettings) -> int:
    """Threads of this machine that work."""
    if settings.workers:
        return settings.workers * (settings.threads or 1)
    return settings.threads or machine.choose_threads().n


def _check_runs(source: Path, plan: QuantPlan) -> None:
    """Raise InputError where llama.cpp could not run the file that is to be made."""
    tensors = (_Stored(t.name, t.tensor.shape, t.qtype.name) for t in plan.tensors)
    if found := next(problems({kv.key: kv for kv in plan.metadata}, tensors), None):
        raise InputError(
            f"{source}: {found}. llama.cpp would end with such a file or compute nothing of use, so it is not made; "
            "mend the source."
        )


class _Stored(NamedTuple):
    """A tensor as it will be stored."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def output_header(plan: QuantPlan) -> bytes:
    """Everything before the tensor data."""
    return header_bytes(plan.metadata, tensor_rows(plan.tensors), plan.alignment)


def _known_header(plan: QuantPlan, encoder: RowEncoder) -> bytes:
    """The header without what the encoder says in it, which grows with what it has seen, and where the data begin."""
    late = {kv.key for kv in encoder.metadata}
    known = tuple(kv for kv in plan.metadata if kv.key not in late)
    return output_header(dataclasses.replace(plan, metadata=known)) + plan.data_offset.to_bytes(8, "little")


def check_place(job: Job) -> None:
    """Raise OutputError where the output cannot be written, before any work."""
    check_output(job.settings, [file.path for file in job.model.files], job.plan.file_nbytes)


def write(job: Job, encoder: RowEncoder, on_progress: OnProgress = ignore, executor: Executor | None = None) -> int:
    """Make the file; returns the bytes that an earlier run had left. See `Output`."""
    with Output(job, on_progress, executor) as out:
        out.encode(encoder)
        out.finish(encoder)
    return out.resumed_nbytes


class Output:
    """The file of a job while it is made: encode all its tensors, a few or all at a time, then finish it.

    It is under its final name only when it is complete. Ctrl-C or a crash leaves `OUTPUT.partial` and its journal,
    which `settings.resume` continues to the same bytes; where nothing was encoded yet, or the source is faulty, they
    are removed.

    resumed_nbytes  bytes that an earlier run had left
    """

    def __init__(self, job: Job, on_progress: OnProgress = ignore, executor: Executor | None = None) -> None:
        self._job, self._on_progress, self._telling = job, on_progress, threading.Lock()
        self._executor = executor or Threads(job.threads)
        check_place(job)
        forget_copy(job.settings.output, "check")
        self._out = PartialFile(
            job.settings.output, job.plan.file_nbytes, job.identity, resume=job.settings.resume,
            on_verified=lambda found: self._tell(found, _LOOKING, there=found),
        )  # fmt: skip
        self.resumed_nbytes = self._out.done_nbytes

    @property
    def done_nbytes(self) -> int:
        """Bytes that are written and recorded."""
        return self._out.done_nbytes

    @property
    def part_done(self) -> float:
        """The same, as a part of the file."""
        return self._out.done_nbytes / self._job.plan.file_nbytes

    def todo(self, names: Container[str] | None = None) -> list[Slab]:
        """Slabs of those tensors, or of all, that an earlier run did not leave."""
        every = slabs(self._job.plan, self._job.slab_weights, names, self._job.together)
        return [slab for slab in every if not self._out.kept(slab.offset, slab.nbytes)]

    def encode(self, encoder: RowEncoder, names: Collection[str] | None = None) -> None:
        """Encode those tensors, or all. Raises InputError where weights are not finite, OutputError for a full disk."""

        def on_slab(slab: Slab) -> None:
            with self._telling:  # of several threads none tells what another has overtaken
                self._tell(self._out.done_nbytes, slab.planned.name, there=self.resumed_nbytes)

        self._keeping(
            lambda: encode_slabs(
                self.todo(names), self._out, encoder, self._executor,
                allow_nonfinite=self._job.settings.allow_nonfinite, on_slab=on_slab,
            )
        )  # fmt: skip

    def finish(self, encoder: RowEncoder) -> None:
        """Write the header with all that the encoder knows by now, and give the file its name."""
        late = {kv.key: kv for kv in encoder.metadata}
        metadata = tuple(late.get(kv.key, kv) for kv in self._job.plan.metadata)
        header = output_header(dataclasses.replace(self._job.plan, metadata=metadata))
        assert len(header) == self._job.plan.data_offset, "the encoder's metadata changed its size"
        self._keeping(self._require_source)
        self._keeping(lambda: self._out.write(0, np.frombuffer(header, dtype=np.uint8)))
        self._out.finish()
        self._tell(self._job.plan.file_nbytes, "done", there=self.resumed_nbytes)

    def _tell(self, nbytes: int, what: str, *, there: int) -> None:
        total = self._job.plan.file_nbytes
        self._on_progress(Progress(min(nbytes, total), total, "bytes", what, there))  # slabs of another size overlap

    def _require_source(self) -> None:
        """A source that was written to meanwhile gave bytes that do not belong together."""
        for file in self._job.model.files:
            file.require_unchanged()

    def _keeping(self, work: Callable[[], None]) -> None:
        """Do it; what is written is kept where another run may get further, and removed where no resume can help."""
        try:
            work()
        except (InputError, quant.QuantError) as error:
            if not isinstance(error.__cause__, OSError):  # a disk that went away may come back, with --resume
                self._out.discard()
            raise
        except OSError as error:
            raise OutputError(
                f"{partial_path(self._job.settings.output)}: {error.strerror}. What is written is kept; "
                "make room and run again with --resume."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and not self._out.done_nbytes and not kept_path(self._out.final).exists():
            self._out.discard()
        self._out.close()
