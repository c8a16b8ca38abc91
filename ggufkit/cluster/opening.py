"""Where a cluster comes from: an address, or processes of this machine that end with this one."""

import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from ggufkit.cluster.tasks import Cluster
from ggufkit.errors import ClusterError, UsageError
from ggufkit.sigint import postponed_sigint

TIMEOUT_S = 10
SETTINGS = {
    "distributed.worker.profile.enabled": False,  # it looks at every thread a hundred times a second
    "distributed.deploy.lost-worker-timeout": "1 day",  # one that is gone then, maybe once more, never returns
}
EXTRA = "pip install 'ggufkit[cluster]'"


@contextmanager
def connected(address: str, timeout_s: float = TIMEOUT_S) -> Iterator[Cluster]:
    """The cluster of the scheduler at `address`, tcp://HOST:PORT or tls://HOST:PORT.

    Raises UsageError for what is no address, ClusterError where nobody answers, or no worker is there.
    """
    _require_address(address)
    client_of = _dask().Client
    with ExitStack() as stack:
        try:
            with _interrupts_wait():
                client = client_of(address, timeout=timeout_s, set_as_default=False, name="ggufkit")
                stack.enter_context(_closing(client))
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            raise ClusterError(
                f"no scheduler answers at {address} within {timeout_s:g} seconds. Start one with `dask scheduler`, and "
                "workers with `dask worker ADDRESS`."
            ) from error
        try:
            client.wait_for_workers(1, timeout=timeout_s)
        except (OSError, TimeoutError) as error:
            raise ClusterError(
                f"the scheduler at {address} has no workers. Start some: dask worker {address} --nthreads 1"
            ) from error
        yield Cluster(client, address)


@contextmanager
def local(n: int, threads: int) -> Iterator[Cluster]:
    """`n` processes of this machine with so many threads each. They end with this one, however it ends."""
    dask = _dask()
    from dask import config

    with ExitStack() as stack:
        stack.enter_context(config.set(SETTINGS))
        with _interrupts_wait():
            cluster = dask.LocalCluster(
                n_workers=n, threads_per_worker=threads, processes=True, memory_limit=0, host="127.0.0.1",
                dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
            )  # fmt: skip
            stack.enter_context(_closing(cluster))
            client = dask.Client(cluster, set_as_default=False, name="ggufkit")
            stack.enter_context(_closing(client))
        yield Cluster(client, f"{n} workers of this machine")


@contextmanager
def _closing(opened: Any) -> Iterator[Any]:
    """Close a client or a cluster, or leave it after some seconds: its processes end with this one anyway."""
    try:
        yield opened
    finally:
        with _interrupts_wait(), suppress(TimeoutError):
            opened.close(timeout=TIMEOUT_S)
        if isinstance(opened, _dask().Client):  # a client that is not closed tries again when Python ends, for a minute
            opened.status = "closed"


def _require_address(address: str) -> None:
    scheme, _, place = address.partition("://")
    host, _, port = place.rpartition(":")
    if scheme not in ("tcp", "tls") or not host or not port.isdigit():
        raise UsageError(f"--cluster wants the address of a Dask scheduler, tcp://HOST:8786, not {address!r}.")


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C comes when the block is left: Dask, interrupted while it opens or closes, waits for itself later.

    A terminal sends it to all processes: those that are started inside, and those that replace them, never see it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with postponed_sigint(lambda: None):  # it may reach another thread, which does not block it
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _dask() -> Any:
    """The package, its log kept to itself: what a person should know of workers is said by `Cluster`."""
    try:
        import dask.distributed
    except ImportError as error:
        raise ClusterError(f"--cluster and --workers need Dask, which is not installed: {EXTRA}") from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    return dask.distributed
