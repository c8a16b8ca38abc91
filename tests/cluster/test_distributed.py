"""Encoding on three workers: one process's bytes, whoever dies, whoever goes on, wherever the bytes are written."""

import dataclasses
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ggufkit.architectures.source import open_source
from ggufkit.cluster.tasks import Cluster
from ggufkit.encoding.encoder import PlainEncoder
from ggufkit.encoding.executors.distributed import Distributed, encode_batch, look
from ggufkit.encoding.executors.likeness import likeness
from ggufkit.encoding.executors.threads import Threads
from ggufkit.encoding.pipeline import encode_slabs
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.encoding.slabs import slabs
from ggufkit.errors import InputError
from ggufkit.formats.shared_place import shared
from ggufkit.formats.unfinished import journal_path, partial_path
from ggufkit.progress import Progress
from ggufkit.recipes.build import make_plan
from ggufkit.workflows.quantize import quantize

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny-mixtral"
IMATRIX = ROOT / "tests" / "data" / "tiny-mixtral.imatrix.gguf"


def settings(output: Path, **changes: object) -> QuantizeSettings:
    base = QuantizeSettings(source=MODEL, output=output, recipe="Q4_K_M", imatrix=IMATRIX)
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What one process makes."""
    out = tmp_path_factory.mktemp("whole") / "whole.gguf"
    quantize(settings(out))
    return out.read_bytes()


def test_a_worker_that_is_killed_changes_no_byte(
    address: str, kill_one: Callable[[], None], whole: bytes, tmp_path: Path
) -> None:
    done: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        done.append(progress)
        if len(done) == 20:
            kill_one()
            time.sleep(1.5)  # long enough to be missed

    report = quantize(settings(tmp_path / "out.gguf", cluster=address), on_progress)
    assert (tmp_path / "out.gguf").read_bytes() == whole
    assert os.listdir(tmp_path) == ["out.gguf"]
    assert [p.done for p in done] == sorted(p.done for p in done) and done[-1].done == done[-1].total
    assert any("was lost; others did its work" in note for note in report.notes)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("here_first", [True, False])
def test_a_run_goes_on_here_or_there(here_first: bool, address: str, whole: bytes, tmp_path: Path) -> None:
    out, count = tmp_path / "out.gguf", 0

    def stop(_: Progress) -> None:
        nonlocal count
        count += 1
        if count == 25:
            raise StoppedError

    first, then = (None, address) if here_first else (address, None)
    with pytest.raises(StoppedError):
        quantize(settings(out, cluster=first), stop)
    assert sorted(os.listdir(tmp_path)) == [partial_path(out).name, journal_path(out).name]
    assert quantize(settings(out, cluster=then, resume=True)).resumed_nbytes > 0
    assert out.read_bytes() == whole


class Memory:
    """A target that no other process shares."""

    def __init__(self, nbytes: int) -> None:
        self.data = np.zeros(nbytes, np.uint8)

    def write(self, offset: int, data: np.ndarray, /) -> None:
        self.data[offset : offset + len(data)] = data


def test_where_no_folder_is_shared_the_bytes_come_back(cluster: Cluster) -> None:
    with open_source(MODEL) as model:
        plan = make_plan(model, "Q3_K_M")
        here, there = Memory(plan.file_nbytes), Memory(plan.file_nbytes)
        encode_slabs(slabs(plan, 1 << 14), here, PlainEncoder(), Threads(1))
        executor = Distributed(cluster)
        executor.admit(model.files)
        encode_slabs(slabs(plan, 1 << 15), there, PlainEncoder(), executor)
    assert here.data.any() and np.array_equal(here.data, there.data)


def test_a_worker_that_sees_another_folder_gives_its_blocks_back(tmp_path: Path) -> None:
    (tmp_path / "out.partial").write_bytes(bytes(1 << 20))
    with open_source(MODEL) as model:
        slab = next(slabs(make_plan(model, "Q4_K_M"), 1 << 12))
        encoder = PlainEncoder().of_expert(slab.planned, 0)
        with shared(tmp_path / "out.partial", tmp_path / "token") as place:
            here = encode_batch([slab], False, place, encoder)
            other = encode_batch([slab], False, place._replace(secret="of another run"), encoder)
    assert [row.nbytes for row in here.ranges] == [slab.nbytes] and not here.blocks
    assert not other.ranges and len(other.blocks[0]) == slab.nbytes
    written = (tmp_path / "out.partial").read_bytes()[slab.offset : slab.offset + slab.nbytes]
    assert written == other.blocks[0].tobytes()


def test_a_weight_that_cannot_be_stored_names_tensor_and_worker(address: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in MODEL.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    shard = folder / "model-00001-of-00002.safetensors"
    raw = bytearray(shard.read_bytes())
    raw[-64:] = b"\xff" * 64  # NaN in BF16
    shard.write_bytes(raw)
    with pytest.raises(InputError, match="is nan.*--allow-nonfinite") as caught:
        quantize(settings(tmp_path / "out.gguf", source=folder, imatrix=None, cluster=address))
    assert caught.value.__notes__[0].startswith("This is from worker tcp://")
    assert os.listdir(tmp_path) == ["model"]


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "ggufkit", "quantize", str(MODEL), "-o", str(out), "--imatrix", str(IMATRIX), *more]


def is_empty(group: int) -> bool:
    """Whether nobody is left of it, within a few seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_ctrl_c_stops_all_processes_and_resume_goes_on_here(whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    child = subprocess.Popen(command(out, "--workers", "2"), cwd=ROOT, stderr=subprocess.PIPE, text=True,
                             start_new_session=True)  # fmt: skip
    while not (journal_path(out).exists() and journal_path(out).read_bytes().count(b"\n") > 2) and child.poll() is None:
        time.sleep(0.002)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal sends it: to this process and to all of its own
    _, shown = child.communicate(timeout=60)
    assert child.returncode == 130 and "Continue with --resume" in shown, shown
    assert "Traceback" not in shown and not out.exists()
    assert is_empty(child.pid)
    done = subprocess.run(command(out, "--resume"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == whole


IMPATIENT = """
import os, signal, sys, threading, time
from distributed import Client
from distributed.deploy.spec import SpecCluster
from ggufkit.cluster.opening import connected, local

def press():
    while True:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.005)

if __name__ == "__main__":
    try:
        with connected(sys.argv[1]) if sys.argv[1:] else local(1, 1):
            opened = [*Client._instances, *SpecCluster._instances]
            threading.Thread(target=press, daemon=True).start()
            time.sleep(60)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(*(getattr(one.status, "value", one.status) for one in opened), flush=True)
"""


@pytest.mark.parametrize("theirs", [True, False])
def test_ctrl_c_again_and_again_closes_what_is_open(theirs: bool, address: str, tmp_path: Path) -> None:
    """Interrupted while it closed, Dask's client tried again as Python ended, and waited a minute for a loop of its own
    that had ended before."""
    script = tmp_path / "impatient.py"
    script.write_text(IMPATIENT)
    args = [sys.executable, str(script), *([address] if theirs else [])]
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, timeout=45)
    assert done.stdout.split() == ["closed"] * (1 if theirs else 2) and done.returncode == 0, done.stderr


def test_without_dask_the_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['dask'] = None; from ggufkit.cli import main; main(sys.argv[1:])"
    args = command(tmp_path / "out.gguf", "--workers", "2")[3:]
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Dask, which is not installed: pip install 'ggufkit[cluster]'" in done.stderr
    assert not list(tmp_path.iterdir())


def page_faults() -> int:
    """On a worker: those of arrays that are made and freed, the first ones left out."""
    import resource

    for n in (3, 20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(n):
            np.ones(1 << 20, dtype=np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is another")
def test_workers_use_again_what_they_freed(cluster: Cluster) -> None:
    """Dask asks malloc to give everything back: each array of a slab would be a thousand page faults."""
    cluster.admit(look, likeness(), [])
    assert all(n < 1000 for n in cluster.ask(page_faults).values())
