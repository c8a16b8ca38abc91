"""Slabs: the plan cut into whole rows of one expert, each with its place in the file. Knows a plan and nothing else."""

from collections.abc import Container, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ggufkit.recipes.plan import PlannedTensor, QuantPlan

SLAB_WEIGHTS = 2 << 20  # weights of a slab when memory is plenty: 8 MiB of float32, a few tens of milliseconds of work

ONE_BY_ONE: Mapping[str, int] = MappingProxyType({})


class Slab(NamedTuple):
    """Rows [start, stop) of one expert, and where their blocks go in the file; the last one carries the padding."""

    planned: PlannedTensor
    expert: int
    start: int
    stop: int
    offset: int
    nbytes: int


def slabs(
    plan: QuantPlan, slab_weights: int, names: Container[str] | None = None, together: Mapping[str, int] = ONE_BY_ONE
) -> Iterator[Slab]:
    """Slabs of those tensors, or of all, in file order; none crosses an expert.

    together  rows that no slab divides, by tensor
    """
    for planned in plan.tensors:
        if names is not None and planned.name not in names:
            continue
        tensor = planned.tensor
        row_nbytes = planned.qtype.row_nbytes(tensor.n_per_row)
        least = max(1, together.get(planned.name, 1))
        step = max(least, slab_weights // tensor.n_per_row // least * least)
        for expert in range(tensor.n_expert):
            for start in range(0, tensor.n_rows, step):
                stop = min(start + step, tensor.n_rows)
                offset = plan.data_offset + planned.offset + (expert * tensor.n_rows + start) * row_nbytes
                nbytes = (stop - start) * row_nbytes
                if expert == tensor.n_expert - 1 and stop == tensor.n_rows:
                    nbytes += -planned.nbytes % plan.alignment
                yield Slab(planned, expert, start, stop, offset, nbytes)
