"""The executor that the settings ask for, for as long as a job lasts."""

from collections.abc import Iterator
from contextlib import contextmanager

from ggufkit.encoding.executors import Executor
from ggufkit.encoding.executors.threads import Threads
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import UsageError
from ggufkit.formats.model import Model
from ggufkit.runtime.allocator import keeping_memory


@contextmanager
def opened(settings: QuantizeSettings, model: Model, threads: int) -> Iterator[Executor]:
    """Threads of this process, or the workers of a cluster, each of them looked at. Raises ClusterError."""
    if settings.cluster and settings.workers:
        raise UsageError("--cluster and --workers exclude each other: a cluster has workers of its own.")
    if not (settings.cluster or settings.workers):
        with keeping_memory():
            yield Threads(threads)
        return
    from ggufkit.cluster.opening import connected, local
    from ggufkit.encoding.executors.distributed import Distributed

    opening = connected(settings.cluster) if settings.cluster else local(settings.workers, settings.threads or 1)
    with opening as cluster:
        executor = Distributed(cluster)
        executor.admit(model.files)
        yield executor
