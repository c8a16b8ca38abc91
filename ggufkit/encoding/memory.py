"""How much memory a plan takes to be encoded, and how large its slabs may be."""

from ggufkit.encoding import pipeline
from ggufkit.errors import UsageError
from ggufkit.recipes.plan import QuantPlan

# Resident bytes of the interpreter with numpy, numba, the compiled kernels and the ggml library, measured with
# benchmarks/pipeline.py and rounded up.
BASE_NBYTES = 320 << 20


def slab_size(
    plan: QuantPlan,
    threads: int,
    max_memory: int,
    *,
    held_nbytes: int = 0,
    bytes_per_weight: int = pipeline.BYTES_PER_WEIGHT,
) -> tuple[int, int]:
    """Weights of a slab and the peak resident bytes, for a plan on `threads` threads under `max_memory` bytes.

    held_nbytes       that stay in memory all the time, importance above all: half a gigabyte where experts are many
    bytes_per_weight  that each weight of a slab in work takes

    Raises UsageError where even the smallest slabs do not fit, with the least that would.
    """
    widest = max(t.tensor.n_per_row for t in plan.tensors)
    workers = pipeline.workers_of(threads)
    fixed = BASE_NBYTES + held_nbytes + 4 * plan.data_offset  # the header is held a few times while it is made
    least = fixed + workers * widest * bytes_per_weight
    if max_memory < least:
        raise UsageError(
            f"--max-memory of {max_memory} bytes is too small: {threads} threads on slabs of {widest} weights need "
            f"{-(-least >> 20)}MiB. Raise it, or lower --threads."
        )
    room = (max_memory - fixed) // (workers * bytes_per_weight)
    slab_weights = max(widest, min(room, pipeline.SLAB_WEIGHTS))
    return slab_weights, fixed + workers * slab_weights * bytes_per_weight
