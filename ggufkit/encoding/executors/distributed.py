"""Slabs on the workers of a cluster.

A batch of slabs of one expert travels with what its encoder knows of that expert. The worker reads the source from the
path that the client reads, and writes into the output where it shares the folder; else the bytes come back. Either way
it is the client that records what is done, so that the journal is that of any other run.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from ggufkit.cluster.tasks import PER_THREAD, Cluster, Task, passed_on
from ggufkit.encoding.encoder import ExpertEncoder, F32Array, Tally, U8Array
from ggufkit.encoding.executors.likeness import likeness, unlike
from ggufkit.encoding.pipeline import SlabWork, encode_slab
from ggufkit.encoding.slabs import Slab
from ggufkit.errors import InputError
from ggufkit.formats.partial import PartialFile
from ggufkit.formats.shared_place import Range, SharedPlace
from ggufkit.formats.source_file import SourceFile
from ggufkit.recipes.plan import PlannedTensor
from ggufkit.runtime.allocator import keep_memory

BATCH = 16  # slabs: a quarter of a second of plain search, so that a scheduler keeps up with thousands of cores


class Done(NamedTuple):
    """What comes of a batch: ranges that the worker wrote, or blocks that the client is to write, and the count."""

    ranges: tuple[Range, ...]
    blocks: tuple[U8Array, ...]
    tally: Tally


class Distributed:
    """The `Executor` of several processes or machines."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    @property
    def n_slabs(self) -> int:
        """Blocks that may wait here at once."""
        return PER_THREAD * self.cluster.n_threads * BATCH

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.cluster.notes)

    def admit(self, files: Sequence[SourceFile]) -> None:
        """Look at every worker. Raises ClusterError that names those that cannot see the source's files, or would make
        other bytes."""
        self.cluster.admit(look, likeness(), _paths(files))

    def run(self, slabs: Iterator[Slab], work: SlabWork) -> None:
        out = work.out
        sharing: AbstractContextManager[SharedPlace | None] = (
            out.share() if isinstance(out, PartialFile) else nullcontext()
        )
        with sharing as place:
            self.cluster.run(_tasks(slabs, work, place), lambda task, done: _record(task.tag, done, work))


def look(wanted: dict[str, str], files: Sequence[tuple[str, int, int]]) -> str:
    """On a worker, before it works: what is wrong with it."""
    keep_memory()
    if found := unlike(wanted):
        return found
    for path, *expected in files:
        try:
            SourceFile.at(path, *expected).require_expected()
        except InputError as error:
            return f"cannot use the source: {error}"
    return ""


def _paths(files: Sequence[SourceFile]) -> list[tuple[str, int, int]]:
    return [file.seen_elsewhere for file in files if type(file) is SourceFile]


def _tasks(slabs: Iterator[Slab], work: SlabWork, place: SharedPlace | None) -> Iterator[Task]:
    """Batches of one expert each, in the order of the slabs."""
    for (_, expert), group in itertools.groupby(slabs, key=lambda slab: (slab.planned.name, slab.expert)):
        rows = list(group)
        made = functools.partial(work.encoder.of_expert, rows[0].planned, expert)
        inline, handed = passed_on((rows[0].planned.name, expert), made, lambda encoder: encoder.nbytes)
        for first in range(0, len(rows), BATCH):
            batch = tuple(rows[first : first + BATCH])
            yield Task(encode_batch, (batch, work.allow_nonfinite, place, *inline), handed, tag=batch)


def encode_batch(
    batch: Sequence[Slab], allow_nonfinite: bool, place: SharedPlace | None, encoder: ExpertEncoder
) -> Done:
    """On a worker: encode these slabs of one expert, and write them where the output can be seen from here."""
    tally: Counter[str] = Counter()

    def rows(_: PlannedTensor, __: int, w: F32Array, first: int) -> U8Array:
        blocks, counted = encoder(w, first)
        tally.update(counted)
        return blocks

    def encoded() -> Iterator[tuple[int, U8Array]]:
        return ((slab.offset, encode_slab(slab, rows, allow_nonfinite=allow_nonfinite)) for slab in batch)

    if place is not None and place.is_seen:
        with place.opened() as write:
            ranges = tuple(write(offset, blocks) for offset, blocks in encoded())
        return Done(ranges, (), tally)
    return Done((), tuple(blocks for _, blocks in encoded()), tally)


def _record(batch: tuple[Slab, ...], done: Done, work: SlabWork) -> None:
    """On the client: what a worker wrote counts from now on; what came back is written."""
    for row in done.ranges:
        assert isinstance(work.out, PartialFile)
        work.out.record(row)
    for slab, blocks in zip(batch, done.blocks, strict=False):
        work.out.write(slab.offset, blocks)
    work.encoder.count(batch[0].planned, done.tally)
    for slab in batch:
        work.on_slab(slab)
