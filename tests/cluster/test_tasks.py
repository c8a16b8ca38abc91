"""Tasks on three workers: every one is done, whoever dies; errors come back whole; strangers are left out."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from distributed import Future
from distributed.comm.core import CommClosedError

from ggufkit.cluster import tasks
from ggufkit.cluster.opening import connected
from ggufkit.cluster.tasks import Cluster, Handed, Task
from ggufkit.encoding.executors.distributed import look
from ggufkit.encoding.executors.likeness import likeness
from ggufkit.errors import ClusterError, InputError, UsageError

ROOT = Path(__file__).resolve().parents[2]


def fine() -> str:
    return ""


def square(value: int) -> int:
    return value * value


def slow_sum(value: int, handed: np.ndarray) -> float:
    time.sleep(0.05)
    return float(handed.sum()) + value


def fails(value: int) -> None:
    if value == 3:
        try:
            raise OSError(5, "Input/output error")
        except OSError as error:
            raise InputError("weights.bin: cannot be read") from error


def ends(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_every_task_is_done_once_and_asked_for_only_when_there_is_room(cluster: Cluster) -> None:
    asked, found, most = 0, {}, 0

    def tasks():  # type: ignore[no-untyped-def]
        nonlocal asked
        for value in range(60):
            asked += 1
            yield Task(square, (value,), tag=value)

    def on_result(task: Task, result: int) -> None:
        nonlocal most
        assert task.tag not in found
        found[task.tag], most = result, max(most, asked - len(found))

    cluster.admit(fine)
    cluster.run(tasks(), on_result)
    assert found == {value: value * value for value in range(60)}
    assert (cluster.n_workers, cluster.n_threads) == (3, 3) and most <= 6


def test_what_is_handed_over_is_made_again_where_its_worker_dies(
    cluster: Cluster, kill_one: Callable[[], None]
) -> None:
    made = 0

    def make(first: int) -> Callable[[], np.ndarray]:
        def of() -> np.ndarray:
            nonlocal made
            made += 1
            return np.arange(first, first + 100_000)

        return of

    found: dict[int, float] = {}

    def on_result(task: Task, result: float) -> None:
        found[task.tag] = result
        if len(found) == 8:
            kill_one()

    cluster.admit(fine)
    keys = [value // 12 for value in range(48)]
    rows = (Task(slow_sum, (v,), Handed(k, make(k)), tag=v) for v, k in enumerate(keys))
    cluster.run(rows, on_result)
    assert found == {v: float(np.arange(k, k + 100_000).sum()) + v for v, k in enumerate(keys)}
    assert made >= 4
    assert [note for note in cluster.notes if "was lost; others did its work" in note]


def test_a_worker_that_goes_while_something_is_handed_to_it_is_passed_over(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    scatter, calls = cluster._client.scatter, list[int]()

    def gone_first(*args: object, **more: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise CommClosedError("in <TCP (closed) ConnectionPool.scatter>: Stream is closed")  # as Dask says it
        return scatter(*args, **more)

    monkeypatch.setattr(cluster._client, "scatter", gone_first)
    cluster.admit(fine)
    found: dict[int, float] = {}
    rows = (Task(slow_sum, (v,), Handed(0, lambda: np.ones(100_000)), tag=v) for v in range(12))
    cluster.run(rows, lambda task, result: found.update({task.tag: result}))
    assert found == {v: 100_000.0 + v for v in range(12)} and len(calls) > 1


def test_what_no_worker_takes_ends_the_run(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise CommClosedError("Stream is closed")

    monkeypatch.setattr(cluster._client, "scatter", gone)
    monkeypatch.setattr(tasks, "_LONELY_S", 0.5)
    cluster.admit(fine)
    with pytest.raises(ClusterError, match=r"no worker takes what is handed over: Stream is closed\. .*--resume"):
        cluster.run([Task(slow_sum, (0,), Handed(0, lambda: np.ones(3)))], lambda *_: None)


def test_a_result_that_goes_with_its_worker_is_made_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    result, lost = Future.result, list[int]()

    def gone_first(self: Future, *args: object, **more: object) -> object:
        if not lost:
            lost.append(1)
            raise CommClosedError("Stream is closed")
        return result(self, *args, **more)

    cluster.admit(fine)
    monkeypatch.setattr(Future, "result", gone_first)
    found: dict[int, int] = {}
    cluster.run((Task(square, (v,), tag=v) for v in range(12)), lambda task, one: found.update({task.tag: one}))
    assert found == {v: v * v for v in range(12)} and lost


def test_an_error_comes_back_with_its_cause_and_ends_the_rest(cluster: Cluster) -> None:
    cluster.admit(fine)
    with pytest.raises(InputError, match=r"weights\.bin: cannot be read") as caught:
        cluster.run((Task(fails, (value,)) for value in range(10_000)), lambda *_: None)
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == 5


def test_workers_that_would_make_other_bytes_are_named(
    cluster: Cluster, another: Callable[..., None], tmp_path: Path
) -> None:
    """One of another version, one whose kernels are compiled for another processor, one without ggufkit's source."""
    for name in ("ggufkit", "quant"):
        shutil.copytree(ROOT / name, tmp_path / "older" / name, ignore=shutil.ignore_patterns("__pycache__"))
    init = tmp_path / "older" / "ggufkit" / "__init__.py"
    init.write_text(init.read_text().replace("0.1.0", "0.0.9"))
    cluster.admit(look, likeness(), [])  # the three of this machine
    another("older", PYTHONPATH=str(tmp_path / "older"))
    another("generic", NUMBA_CPU_NAME="generic")
    done = []
    until = time.monotonic() + 60
    while len(cluster.notes) < 2 and time.monotonic() < until:  # they come while there is work
        cluster.run((Task(slow_sum, (v,), Handed(0, lambda: np.ones(3))) for v in range(40)),
                    lambda _, result: done.append(result))  # fmt: skip
    left_out = "\n".join(sorted(cluster.notes))
    assert "(named older, on 127.0.0.1) has ggufkit 0.0.9, wanted 0.1.0" in left_out
    assert "(named generic, on 127.0.0.1) has kernels for x86_64 generic" in left_out
    assert left_out.count("It was left out.") == 2
    with pytest.raises(ClusterError, match="named (older|generic)") as caught:
        cluster.admit(look, likeness(), [])
    assert len(caught.value.__notes__) == 1 and "named" in caught.value.__notes__[0]


def test_a_worker_that_does_not_see_the_source_is_named(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    status = weights.stat()
    elsewhere = "/proc/self/cwd/model.safetensors"  # here it is there; workers stand in another folder
    assert Path(elsewhere).exists()
    with pytest.raises(ClusterError, match=rf"worker tcp://.* cannot use the source: {elsewhere}: .*No such file"):
        cluster.admit(look, likeness(), [(elsewhere, status.st_size, status.st_mtime_ns)])
    with pytest.raises(ClusterError, match="is not the file that is being quantized"):
        cluster.admit(look, likeness(), [(str(weights), status.st_size, status.st_mtime_ns + 1)])


@pytest.mark.parametrize("given", ["node0:8786", "http://node0:8786", "tcp://node0", "tcp://:8786"])
def test_what_is_no_address_is_a_usage_error(given: str) -> None:
    with pytest.raises(UsageError, match="--cluster wants the address of a Dask scheduler"), connected(given):
        pass


def test_nobody_at_the_address() -> None:
    started = time.monotonic()
    with (
        pytest.raises(ClusterError, match="no scheduler answers at tcp://127.0.0.1:9"),
        connected("tcp://127.0.0.1:9", 1),
    ):
        pass
    assert time.monotonic() - started < 30


def test_work_that_ends_its_workers_is_an_error(cluster: Cluster) -> None:
    """The last test: it takes the workers a while to come back."""
    cluster.admit(fine)
    with pytest.raises(ClusterError, match="ended several workers one after the other"):
        cluster.run([Task(ends, (0,))], lambda *_: None)
