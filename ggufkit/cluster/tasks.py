"""`Cluster`: tasks go out, a few for each thread of the workers that were admitted, and results come in.

A worker may come at any time: it is looked at before it gets work. A worker may go at any time: what it had in hand is
done by others. Results come in any order; whoever needs one order keeps it.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from ggufkit.errors import ClusterError, GgufkitError

PER_THREAD = 2  # tasks on their way for each thread: one in work, one waiting at its door
_LOOK_EVERY_S = 1.0
_A_MOMENT_S = 0.2  # until the scheduler knows of a worker that went
_LONELY_S = 60.0  # without a single worker before giving up: a restarted one takes seconds
_MOST_TRIES = 4  # of a task whose worker, or what was handed over for it, is lost

TRAVELS_NBYTES = 1 << 20  # of an argument; what is larger is handed over
Look = Callable[..., str]
T = TypeVar("T")


class Handed(NamedTuple):
    """What is too large to travel with each task: sent to the workers once for all tasks with that key.

    make  gives it, and gives the same again where the worker that held it died
    """

    key: object
    make: Callable[[], Any]


def passed_on(key: object, make: Callable[[], T], nbytes: Callable[[T], int]) -> tuple[tuple[T, ...], Handed | None]:
    """What `make` makes as an argument of each task, or as what is handed over once where it is large."""
    made = [make()]
    if nbytes(made[0]) <= TRAVELS_NBYTES:
        return (made[0],), None
    return (), Handed(key, lambda: made.pop() if made else make())


class Task(NamedTuple):
    """A call of `function`, a function of a module that workers can import.

    handed  becomes the last argument, where there is one
    tag     whatever the sender knows it by
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    handed: Handed | None = None
    tag: Any = None


class Failure(NamedTuple):
    """An error on a worker, as a value: pickled as an exception it would lose its cause."""

    error: Exception
    cause: Exception | None
    worker: str


def caught(function: Callable[..., Any], *args: Any) -> Any:
    """What runs on a worker: the result, or a Failure for errors that a person can act on."""
    from distributed import get_worker

    from quant.errors import QuantError

    try:
        return function(*args)
    except (GgufkitError, QuantError, OSError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else None
        return Failure(error, cause, get_worker().address)


@dataclass(slots=True)
class _Sent:
    """A task, which workers may do it, and how often it was sent."""

    task: Task
    to: frozenset[str] = frozenset()
    tries: int = 0


class _Queue:
    """Tasks that are not sent: what was put back first. Asks for the next one only when there is room for it."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._never_sent, self._again = iter(tasks), list[_Sent]()

    def take(self) -> _Sent | None:
        if self._again:
            return self._again.pop()
        task = next(self._never_sent, None)
        return None if task is None else _Sent(task)

    def put_back(self, row: _Sent) -> None:
        if row.tries >= _MOST_TRIES:
            raise _deadly()
        self._again.append(row)

    @property
    def keys(self) -> set[object]:
        """Of what has to be handed over for those that were put back."""
        return {row.task.handed.key for row in self._again if row.task.handed is not None}


class Cluster:
    """The workers of a Dask client, as far as they were admitted.

    notes  lines that a person should see: workers that were lost, workers that were refused while others worked
    """

    def __init__(self, client: Any, place: str) -> None:
        self._client, self.place = client, place
        self.notes: list[str] = []
        self._admitted: dict[str, int] = {}  # address -> threads
        self._refused: set[str] = set()
        self._looking: dict[str, Any] = {}  # newcomers
        self._handed: dict[object, Any] = {}
        self._look: tuple[Look, tuple[Any, ...]] | None = None

    @property
    def n_workers(self) -> int:
        return len(self._admitted)

    @property
    def n_threads(self) -> int:
        """Tasks that are worked on at once."""
        return sum(self._admitted.values())

    def admit(self, look: Look, *args: Any) -> None:
        """Have every worker call `look(*args)`, which says what is wrong with it, or nothing.

        Raises ClusterError that names each worker with which something is wrong. Workers that come later are looked at
        in the same way, and are left out with a note.
        """
        self._look = look, args
        workers = self._workers()
        looking = {address: self._looks_at_itself(address) for address in workers}
        wrong = {address: why for address, future in looking.items() if (why := _said(future))}
        if wrong:
            first, *others = (f"{_name(address, workers[address])} {why}" for address, why in wrong.items())
            error = ClusterError(first)
            for line in others:
                error.add_note(line)
            raise error
        self._admitted = {address: workers[address]["nthreads"] for address in workers}
        self._refused, self._looking = set(), {}

    @property
    def spare_threads(self) -> int:
        """Threads that are left when the largest worker dies."""
        return self.n_threads - max(self._admitted.values(), default=0)

    def ask(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        """What every worker that was admitted says, by its address; a Failure for one that cannot, None for one that is
        gone."""
        futures = {
            address: self._client.submit(caught, function, *args, pure=False, workers=[address])
            for address in self._admitted
        }
        return {address: _answer(future) for address, future in futures.items()}

    def run(
        self,
        tasks: Iterable[Task],
        on_result: Callable[[Task, Any], None],
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Have all of them done. `on_result` is called from this thread. The first error ends the rest and is raised.

        on_wait  is called about every second

        Raises ClusterError where no worker is left.
        """
        queue, sent = _Queue(tasks), dict[Any, _Sent]()
        looked = time.monotonic()
        try:
            while self._send(queue, sent) or not self._admitted:
                for future in self._done(sent):
                    self._receive(future, sent.pop(future), queue, on_result)
                if time.monotonic() - looked > _LOOK_EVERY_S:
                    self._follow(sent, queue)
                    on_wait()
                    looked = time.monotonic()
                self._let_go(sent, queue)
        finally:
            if sent:
                self._client.cancel(list(sent), force=True)
            self._handed.clear()

    def _send(self, queue: _Queue, sent: dict[Any, _Sent]) -> bool:
        """Send as much as there is room for. False where nothing is on its way any more."""
        while len(sent) < PER_THREAD * self.n_threads and (row := queue.take()) is not None:
            sent[self._submit(row.task)] = _Sent(row.task, frozenset(self._admitted), row.tries + 1)
        return bool(sent)

    def _submit(self, task: Task) -> Any:
        args = task.args if task.handed is None else (*task.args, self._hand_over(task.handed))
        return self._client.submit(caught, task.function, *args, pure=False, workers=list(self._admitted))

    def _hand_over(self, handed: Handed) -> Any:
        if handed.key not in self._handed:
            value, until = handed.make(), time.monotonic() + _LONELY_S
            while handed.key not in self._handed:
                try:
                    (self._handed[handed.key],) = self._client.scatter(
                        [value], workers=list(self._admitted), hash=False
                    )
                except (KeyError, OSError) as error:  # one of these workers is gone, or all are
                    if time.monotonic() > until:
                        raise ClusterError(
                            f"{self.place}: no worker takes what is handed over: {error}. What is done is kept; run "
                            "again with --resume."
                        ) from error
                    time.sleep(_A_MOMENT_S)
                    self._see_who_is_there()
        return self._handed[handed.key]

    def _done(self, sent: dict[Any, _Sent]) -> list[Any]:
        """Those that are finished, as soon as there is one; none after a while."""
        from dask.distributed import wait

        if not sent:
            time.sleep(_LOOK_EVERY_S)
            return []
        with self._client.as_current(), suppress(TimeoutError, CancelledError):  # those are done, too
            wait(list(sent), timeout=_LOOK_EVERY_S, return_when="FIRST_COMPLETED")
        return [future for future in sent if future.done()]

    def _receive(self, future: Any, row: _Sent, queue: _Queue, on_result: Callable[[Task, Any], None]) -> None:
        from distributed import KilledWorker

        if future.status != "finished":
            error = future.exception() if future.status == "error" else None
            if isinstance(error, KilledWorker):
                raise _deadly() from error
            if error is not None:
                raise error
            self._put_back(row, queue)  # cancelled: what was handed over for it died with its worker
            return
        try:
            result = future.result()
        except (CancelledError, OSError):  # gone with its worker, on the way: errors of the work are Failures
            self._put_back(row, queue)
            return
        if isinstance(result, Failure):
            result.error.add_note(f"This is from worker {result.worker}.")
            raise result.error from result.cause
        on_result(row.task, result)

    def _put_back(self, row: _Sent, queue: _Queue) -> None:
        if row.task.handed is not None:
            self._handed.pop(row.task.handed.key, None)
        queue.put_back(row)

    def _let_go(self, sent: dict[Any, _Sent], queue: _Queue) -> None:
        """Drop what was handed over for tasks that are all done; the one handed over last may serve the next."""
        needed = {row.task.handed.key for row in sent.values() if row.task.handed is not None} | queue.keys
        for key in [key for key in list(self._handed)[:-1] if key not in needed]:
            del self._handed[key]

    def _follow(self, sent: dict[Any, _Sent], queue: _Queue) -> None:
        """Notice who came and who went; what nobody who is left may do is sent anew."""
        self._see_who_is_there()
        for future in [future for future, row in sent.items() if not row.to & self._admitted.keys()]:
            future.cancel(force=True)
            self._put_back(sent.pop(future), queue)

    def _see_who_is_there(self) -> None:
        workers = self._workers()
        gone = self._admitted.keys() - workers.keys()
        self.notes += [f"{self.place}: worker {address} was lost; others did its work" for address in sorted(gone)]
        for address in gone:
            del self._admitted[address]
        for address in workers.keys() - self._admitted.keys() - self._refused - self._looking.keys():
            self._looking[address] = self._looks_at_itself(address)
        for address in [address for address, future in self._looking.items() if future.done()]:
            self._judge(address, _said(self._looking.pop(address)), workers.get(address))

    def _judge(self, address: str, why: str, row: dict[str, Any] | None) -> None:
        """Take a newcomer in, or leave it out."""
        if row is None:
            return  # gone meanwhile
        if why:
            self._refused.add(address)
            self.notes.append(f"{_name(address, row)} {why} It was left out.")
        else:
            self._admitted[address] = row["nthreads"]

    def _workers(self) -> dict[str, Any]:
        """What the scheduler says of each worker, by address, as soon as there is one."""
        until = time.monotonic() + _LONELY_S
        while time.monotonic() < until:
            workers: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
            if workers:
                return workers
            time.sleep(_A_MOMENT_S)
        raise ClusterError(
            f"{self.place} has no workers any more. What is done is kept; start workers and run again with --resume."
        )

    def _looks_at_itself(self, address: str) -> Any:
        assert self._look is not None, "nobody has said how to look at workers"
        look, args = self._look
        return self._client.submit(caught, look, *args, pure=False, workers=[address])


def _name(address: str, row: dict[str, Any]) -> str:
    """A worker as a person finds it."""
    return f"worker {address} (named {row.get('name')}, on {row.get('host')})"


def _deadly() -> ClusterError:
    return ClusterError(
        "a piece of work ended several workers one after the other; most often their memory ran out. Give them more, "
        "or fewer threads each, and run again with --resume."
    )


def _answer(future: Any) -> Any:
    with suppress(TimeoutError, CancelledError):
        return future.result(timeout=_LONELY_S)
    return None


def _said(future: Any) -> str:
    """What a worker's look at itself said; where it could not even look, why."""
    try:
        said = future.result(timeout=_LONELY_S * 5)
    except TimeoutError:
        return "does not answer. Take it off the cluster."
    except Exception as error:
        if future.status == "cancelled":
            return ""  # gone meanwhile: nothing is wrong with nobody
        return f"cannot run ggufkit: {type(error).__name__}: {error}. Install the same ggufkit there."
    return str(said.error) if isinstance(said, Failure) else str(said)
