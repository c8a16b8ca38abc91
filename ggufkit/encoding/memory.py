"""How much memory a plan takes to be encoded, and how large its slabs may be."""

from collections.abc import Mapping

from ggufkit.encoding import slabs
from ggufkit.encoding.encoder import BYTES_PER_WEIGHT_OF_STEP, BYTES_PER_WEIGHT_TOGETHER
from ggufkit.encoding.slabs import ONE_BY_ONE
from ggufkit.errors import UsageError
from ggufkit.recipes.plan import QuantPlan
from quant.coupling import step_rows

# Resident bytes of the interpreter with numpy, numba, the compiled kernels and the ggml library, measured with
# benchmarks/pipeline.py and rounded up.
BASE_NBYTES = 320 << 20
WORKER_NBYTES = 384 << 20  # the same with Dask, of a process that encodes; benchmarks/cluster.py


def fixed_nbytes(plan: QuantPlan, held_nbytes: int = 0, n_workers: int = 0) -> int:
    """Resident bytes without slabs: the process, the header, which is held a few times, what else is held, and
    processes of this machine that encode."""
    return BASE_NBYTES + n_workers * WORKER_NBYTES + 4 * plan.data_offset + held_nbytes


def slabs_nbytes(
    plan: QuantPlan, n_slabs: int, slab_weights: int, bytes_per_weight: int, together: Mapping[str, int] = ONE_BY_ONE
) -> int:
    """Bytes of the slabs in work; a slab holds a row, or a group of rows that are encoded together, at least."""
    rows = max(slab_weights, widest_rows(plan)) * bytes_per_weight
    return n_slabs * max(rows, _group_nbytes(plan, together))


def _group_nbytes(plan: QuantPlan, together: Mapping[str, int]) -> int:
    """Of the largest group of rows that are encoded together."""
    groups = ((t.tensor.n_per_row, together.get(t.name, 0)) for t in plan.tensors)
    each = (
        n_per_row * (n * BYTES_PER_WEIGHT_TOGETHER + min(n, step_rows(n, n_per_row)) * BYTES_PER_WEIGHT_OF_STEP)
        for n_per_row, n in groups
    )
    return max(each, default=0)


def widest_rows(plan: QuantPlan) -> int:
    """Weights of the smallest slab that every tensor can be cut into."""
    return max(t.tensor.n_per_row for t in plan.tensors)


def slab_size(
    plan: QuantPlan, n_slabs: int, max_memory: int, *, held_nbytes: int, bytes_per_weight: int, n_workers: int = 0,
    together: Mapping[str, int] = ONE_BY_ONE,
) -> tuple[int, int]:  # fmt: skip
    """Weights of a slab and the peak resident bytes, for `n_slabs` in work at once under `max_memory` bytes.

    held_nbytes       that stay in memory all the time: importance, moments
    n_workers         processes of this machine that encode, besides this one
    bytes_per_weight  that each weight of a slab in work takes
    together          rows that no slab divides, by tensor

    Raises UsageError where even the smallest slabs do not fit, with the least that would.
    """
    fixed = fixed_nbytes(plan, held_nbytes, n_workers)
    least = fixed + slabs_nbytes(plan, n_slabs, 0, bytes_per_weight, together)
    if max_memory < least:
        who = f"{n_workers} workers" if n_workers else f"{n_slabs - 1} threads"
        raise UsageError(
            f"--max-memory of {max_memory} bytes is too small: {who} on slabs of {widest_rows(plan)} weights need "
            f"{-(-least >> 20)}MiB. Raise it, or lower --{'workers' if n_workers else 'threads'}."
        )
    slab_weights = min((max_memory - fixed) // (n_slabs * bytes_per_weight), slabs.SLAB_WEIGHTS)
    peak = fixed + slabs_nbytes(plan, n_slabs, slab_weights, bytes_per_weight, together)
    return max(slab_weights, widest_rows(plan)), peak
