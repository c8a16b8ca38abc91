"""Names, metadata and tokens of strangers reach no terminal and no runner as anything but text, in any command."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from ggufkit.cli import main

EVIL = "x\x1b]0;owned\x07\x1b[2J\u202e\x9b31m\n::error::made up"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]|^\\s*::", re.MULTILINE)


def evil_gguf(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(EVIL)
    writer.add_string("general." + EVIL, EVIL)
    writer.add_array("x.words", [EVIL, "b"])
    writer.add_chat_template(EVIL)
    for name, value in (("context_length", 64), ("embedding_length", 32), ("block_count", 1), ("head_count", 1)):
        getattr(writer, f"add_{name}")(value)
    writer.add_tensor("t" + EVIL, np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    return evil_gguf(tmp_path / f"{EVIL.replace('/', '')}.gguf")


def said(*args: object) -> Any:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert "mistake of ggufkit" not in result.output
    return result.output


@pytest.mark.parametrize(
    "args",
    [
        ["inspect", "EVIL"],
        ["inspect", "EVIL", "--full"],
        ["inspect", "EVIL", "--json"],
        ["plan", "EVIL", "--type", "Q8_0"],
        ["quantize", "EVIL", "-o", "OUT", "--type", "Q8_0"],
        ["diff", "EVIL", "EVIL"],
        ["run", "EVIL", "-p", "x"],
        ["perplexity", "EVIL"],
        ["calibrate", "EVIL", "-o", "OUT"],
        ["gate", "EVIL", "--baseline", "EVIL", "--github"],
        ["card", "EVIL"],
        ["inspect", "ABSENT"],
        ["quantize", "ABSENT", "-o", "OUT"],
        ["perplexity", "ABSENT", "--text", "EVIL"],
    ],
    ids=" ".join,
)
def test_no_command_lets_it_through(args: list[str], evil: Path) -> None:
    places = {"EVIL": evil, "ABSENT": evil.with_name("absent" + EVIL), "OUT": evil.with_name(f"out{EVIL}.gguf")}
    output = said(*(places.get(arg, arg) for arg in args))
    assert output
    assert not UNSAFE.search(output), ascii(UNSAFE.search(output))


def test_a_template_goes_into_a_pipe_byte_for_byte(evil: Path) -> None:
    command = [sys.executable, "-m", "ggufkit", "inspect", str(evil), "--template"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == EVIL.encode() + b"\n"


def test_a_template_is_printable_on_a_terminal(evil: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ggufkit", "inspect", str(evil), "--template"]
    with subprocess.Popen(command, stdout=theirs) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        assert running.wait(30) == 0
    os.close(ours)
    assert b"\x1b" not in shown
    assert rb"\x1b]0;owned\x07" in shown
