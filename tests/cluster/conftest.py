"""Three real worker processes of this machine, and more where a test wants others."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dask import config
from distributed import Client, LocalCluster

from ggufkit.cluster.opening import SETTINGS, connected
from ggufkit.cluster.tasks import Cluster

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny-mixtral"


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Of a scheduler with three workers of one thread, each a process that is started again when it is killed."""
    with config.set(SETTINGS), LocalCluster(
        n_workers=3, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", memory_limit=0,
        silence_logs=logging.CRITICAL, host="127.0.0.1",
    ) as cluster:  # fmt: skip
        yield cluster.scheduler_address


@pytest.fixture
def cluster(address: str) -> Iterator[Cluster]:
    with connected(address) as opened:
        opened._client.wait_for_workers(3, timeout=90)
        yield opened


@pytest.fixture
def kill_one(address: str) -> Iterator[Callable[[], None]]:
    """Ends the process of one worker."""
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(3, timeout=90)
        answers = client.run(os.getpid, on_error="return").values()  # one of them may be just being started again
        pids = [pid for pid in answers if isinstance(pid, int)]
        yield lambda: os.kill(pids.pop(), signal.SIGKILL)


@pytest.fixture
def another(address: str) -> Iterator[Callable[..., None]]:
    """another(name, **environment): one more worker of that scheduler, until the test is over."""
    started: list[subprocess.Popen[Any]] = []

    def start(name: str, **environment: str) -> None:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--name", name, "--nthreads", "1"]
        started.append(
            subprocess.Popen([*command, "--no-nanny", "--no-dashboard"], env={**os.environ, **environment}, cwd="/",
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )  # fmt: skip

    yield start
    for process in started:
        process.kill()
        process.wait(30)
    with Client(address, set_as_default=False) as client:
        until = time.monotonic() + 30
        while len(client.scheduler_info(n_workers=-1)["workers"]) > 3 and time.monotonic() < until:
            time.sleep(0.1)
