"""Where output cannot go is said by every command, before anything is read; inputs are never written to."""

import os
import stat
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from ggufkit.cli import COMMANDS, main, options
from ggufkit.formats.atomic import write_atomic
from ggufkit.formats.outputs import beside, require_place
from ggufkit.formats.partial import PartialFile
from ggufkit.formats.unfinished import journal_path, partial_path

# every command that writes: its arguments before the output's option, IN stands for the input
WRITES = [
    ("calibrate", ["IN", "--force", "-o"]),
    ("calibrate", ["m.gguf", "--text", "IN", "--force", "-o"]),
    ("calibrate", ["m.gguf", "--add-to", "IN", "--force", "-o"]),
    ("calibrate", ["--merge", "IN", "--merge", "IN", "--force", "-o"]),
    ("quantize", ["IN", "--force", "-o"]),
    ("quantize", ["m.gguf", "--recipe", "IN", "--force", "-o"]),
    ("quantize", ["m.gguf", "--imatrix", "IN", "--force", "-o"]),
    ("quantize", ["m.gguf", "--calibrate", "--calibration-text", "IN", "--force", "-o"]),
    ("quantize", ["IN", "--target-bpw", "4", "-o", "x.gguf", "--save-recipe"]),
    ("baseline", ["IN", "--force", "-o"]),
    ("baseline", ["m.gguf", "--text", "IN", "--force", "-o"]),
    ("gate", ["c.gguf", "--baseline", "IN", "--junit"]),
    ("gate", ["IN", "--baseline", "b.gguf", "--markdown"]),
    ("gate", ["c.gguf", "--baseline", "b.gguf", "--text", "IN", "--markdown"]),
    ("report", ["IN", "-o"]),
    ("card", ["IN", "-o"]),
]


def tried(command: str, args: list[str], output: Path, given: Path) -> Any:
    filled = [str(given) if arg == "IN" else arg for arg in args]
    result = CliRunner().invoke(main, [command, *filled, str(output)])
    assert result.exit_code == 1, result.output
    assert "mistake of ggufkit" not in result.output
    return result.output


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "given.gguf"
    path.write_bytes(b"precious")
    return path


@pytest.mark.parametrize("how", ["path", "link", "hard link", "by the link's name"])
@pytest.mark.parametrize(("command", "args"), WRITES, ids=lambda v: v if isinstance(v, str) else " ".join(v))
def test_no_input_is_replaced(command: str, args: list[str], how: str, given: Path) -> None:
    output, source = given, given
    if how == "link":
        output = given.with_name("other.gguf")
        output.symlink_to(given)
    elif how == "hard link":
        output = given.with_name("other.gguf")
        output.hardlink_to(given)
    elif how == "by the link's name":
        source = given.with_name("other.gguf")
        source.symlink_to(given)
    assert "is the input itself" in tried(command, args, output, source)
    assert given.read_bytes() == b"precious"


@pytest.mark.parametrize(("command", "args"), WRITES, ids=lambda v: v if isinstance(v, str) else " ".join(v))
def test_no_device_or_pipe_or_folder_is_replaced(command: str, args: list[str], given: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    assert "is not a regular file" in tried(command, args, tmp_path / "pipe", given)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert "/dev/null is not a regular file" in tried(command, args, Path("/dev/null"), given)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert "is a folder" in tried(command, args, tmp_path / "folder", given)
    assert "absent is not a folder" in tried(command, args, tmp_path / "absent" / "x", given)
    assert "has more than 255 bytes" in tried(command, args, tmp_path / ("x" * 300), given)


def test_every_path_of_every_command_is_read_or_written() -> None:
    """A new option cannot slip past the check: it is of one of the two types."""
    group, ctx = main, click.Context(main)
    for name in COMMANDS:
        command = group.get_command(ctx, name)
        assert command is not None
        paths = [param for param in command.params if isinstance(param.type, click.Path)]
        assert all(param.type in (options.PATH, options.OUTPUT) for param in paths), name
        named = {param.name for param in paths if param.type is options.OUTPUT}
        assert named >= {param.name for param in command.params if param.name in ("output", "junit", "markdown")}


@pytest.mark.parametrize(
    "args",
    [
        ["plan", "m", "--recipe", "PIPE"],
        ["gate", "c.gguf", "--baseline", "PIPE"],
        ["gate", "c.gguf", "--baseline", "b", "--config", "PIPE"],
        ["compare", "PIPE", "b.gguf"],
        ["inspect", "PIPE"],
        ["diff", "PIPE", "x"],
        ["card", "PIPE"],
        ["perplexity", "m.gguf", "--text", "PIPE"],
    ],
    ids=" ".join,
)
def test_nobody_waits_for_a_pipe(args: list[str], given: Path) -> None:
    os.mkfifo("pipe")
    result = CliRunner().invoke(main, ["pipe" if arg == "PIPE" else arg for arg in args])
    assert result.exit_code == 1
    assert "pipe is not a regular file" in result.output


def test_two_outputs_cannot_be_one(given: Path) -> None:
    result = CliRunner().invoke(
        main, ["gate", "c.gguf", "--baseline", "b", "--junit", "out", "--markdown", f"{given.parent}/./out"]
    )
    assert result.exit_code == 2
    assert "given for two outputs" in result.output


def test_parts_of_a_split_and_files_of_a_folder_are_inputs(given: Path) -> None:
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"):
        Path(name).write_bytes(b"part")
    args = ["baseline", "m-00001-of-00002.gguf", "--force", "-o", "m-00002-of-00002.gguf"]
    assert "is the input itself" in CliRunner().invoke(main, args).output
    Path("folder").mkdir()
    Path("folder/config.json").write_text("{}")
    args = ["quantize", "folder", "--force", "-o", "folder/config.json"]
    assert "is the input itself" in CliRunner().invoke(main, args).output


def test_a_long_name_that_the_disk_takes_is_written(tmp_path: Path) -> None:
    target = tmp_path / ("ä" * 125 + ".gguf")
    require_place(target)
    write_atomic(target, [b"one"])
    with PartialFile(target, 3, "id") as out:
        out.write(0, np.frombuffer(b"two", dtype=np.uint8))
        out.finish()
    assert target.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [target]
    longer = tmp_path / ("ä" * 125 + "-gguf")
    assert beside(target, ".partial") != beside(longer, ".partial")


def test_a_link_is_written_through(tmp_path: Path) -> None:
    """The link stays; what it leads to is made or replaced, on the disk where that lies."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "model.gguf"
    link.symlink_to(tmp_path / "disk" / "real.gguf")
    require_place(link)
    assert partial_path(link).parent == journal_path(link).parent == tmp_path / "disk"
    write_atomic(link, [b"new"])
    assert link.is_symlink()
    assert (tmp_path / "disk" / "real.gguf").read_bytes() == b"new"
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == ["real.gguf"]
