"""A death inside llama.cpp leaves a sentence and exit code 1; signals and exit codes cross the boundary."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.runtime.boundary import last_words
from tests.formats.build import STRING
from tests.runtime.edited import as_type, edited, key
from tests.workflows.faults import rewrite

UNCHECKED = (
    "import ggufkit.runtime.engine as engine; engine.require_runnable = lambda header: None; "
    "from ggufkit.cli import main; main()"
)
CROSS = "import sys, time, os, signal; from ggufkit.runtime import boundary; ended = boundary.cross(); "


def command(code: str, *args: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, args)]


def tried(code: str, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(code, *args), capture_output=True, text=True, env=os.environ | env, timeout=120)


@pytest.mark.parametrize(
    "verb", [["run", "-p", "Once", "-n", "2"], ["perplexity", "--chunks", "1"]], ids=lambda v: v[0]
)
def test_an_abort_names_the_file_and_the_library_s_line(verb: list[str], stories: Path, tmp_path: Path) -> None:
    path = edited(stories, tmp_path / "wrong.gguf", key("llama.rope.scaling.type", STRING, "bogus"))
    done = tried(UNCHECKED, verb[0], path, *verb[1:])
    assert done.returncode == 1
    assert re.search(
        r"Error: \S*wrong\.gguf ends llama\.cpp \(abort, SIGABRT while it is loaded\): "
        r"llama-model\.cpp:\d+: GGML_ASSERT\(hparams\.rope_scaling_type_train",
        done.stderr,
    )
    assert "A small model of ggufkit's own runs here" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_segmentation_fault_while_computing_is_told(stories: Path, tmp_path: Path) -> None:
    path = edited(stories, tmp_path / "wrong.gguf", as_type("blk.0.attn_q.weight", "I8"))
    done = tried(UNCHECKED, "run", path, "-p", "Once", "-n", "2")
    assert done.returncode == 1
    assert "wrong.gguf ends llama.cpp (segmentation fault, SIGSEGV while it computes)" in done.stderr


def test_an_error_and_an_answer_cross_unchanged(stories: Path, tmp_path: Path) -> None:
    main = "from ggufkit.cli import main; main()"
    plain = ["run", stories, "-p", "Once upon", "-n", "4", "--temp", "0", "-t", "1"]
    one, two = tried(main, *plain), tried(main, *plain, GGUFKIT_ONE_PROCESS="1")
    assert one.returncode == two.returncode == 0
    assert one.stdout == two.stdout
    assert tried(main, "run", tmp_path / "absent.gguf", "-p", "x").returncode == 1
    assert tried(main, "run", stories, "--bogus").returncode == 2


def test_what_the_library_prints_stays_out_of_standard_error() -> None:
    done = tried(CROSS + "ended is None or sys.exit(ended); os.write(2, b'noise'); print('ours', file=sys.stderr)")
    assert (done.returncode, done.stderr) == (0, "ours\n")


def test_a_signal_sent_to_the_command_alone_reaches_the_work() -> None:
    work = (
        "ended is None or sys.exit(ended)\ntry: print('ready', flush=True); time.sleep(60)\nexcept KeyboardInterrupt: "
    )
    with subprocess.Popen(command(CROSS + work + "sys.exit(130)"), stdout=subprocess.PIPE) as running:
        assert running.stdout and running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130


def test_ctrl_c_ends_a_long_reading_of_tokens(stories: Path, tmp_path: Path) -> None:
    """llama.cpp looks for each of 510 user-defined tokens in half a megabyte, in one call that cannot be stopped."""

    with closing(GgufFile.open(stories)) as file:
        kinds = file.value("tokenizer.ggml.token_type")
    path = rewrite(
        stories, tmp_path / "slow.gguf", metadata={"tokenizer.ggml.token_type": [*kinds[:3], *(4 for _ in kinds[3:])]}
    )
    main = "from ggufkit.cli import main; main()"
    with subprocess.Popen(
        command(main, "calibrate", path, "-o", tmp_path / "slow.imatrix"), stderr=subprocess.PIPE
    ) as running:
        time.sleep(4)
        asked = time.monotonic()
        running.send_signal(signal.SIGINT)
        assert running.wait(20) in (130, -signal.SIGINT)
        assert time.monotonic() - asked < 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone ends a child with its parent")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_ended_leaves_nothing_at_work(how: signal.Signals) -> None:
    work = "\nif ended is None:\n  print(os.getpid(), flush=True)\n  time.sleep(60)"
    with subprocess.Popen(command(CROSS + work), stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        child = int(running.stdout.readline())
        assert child != running.pid
        running.send_signal(how)
        assert running.wait(20) == -how
        deadline = time.monotonic() + 20
        while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not Path(f"/proc/{child}").exists()


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        ("", ""),
        ("loading\n/tmp/pip-x/src/a.cpp:25: GGML_ASSERT(a) failed\n", "a.cpp:25: GGML_ASSERT(a) failed"),
        ("terminate called after throwing\n  what():  unordered_map::at\nx\n", "what():  unordered_map::at"),
        ("one\ntwo\n\n", "two"),
    ],
)  # fmt: skip
def test_last_words(printed: str, line: str) -> None:
    assert last_words(printed) == line
