"""What a terminal shows: the bars of every command, and names that look like markup."""

import io
import sys

import pytest

from ggufkit.cli import console

NAME = "tiny[/b] [Q4] :fire:.gguf"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("unit_bytes", [True, False])
def test_a_bar_is_drawn_before_the_total_is_known(unit_bytes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with console.progress(NAME, unit_bytes=unit_bytes) as update:
        update(1, 4, "blk.0[/dim]")
        update(4, 4, "blk.1[/dim]")
    shown = terminal.getvalue()
    assert NAME in shown
    assert "blk.1[/dim]" in shown
    assert ("4 B of 4 B" if unit_bytes else "4 of 4") in shown


def test_results_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.out().print(f'{NAME} "[[rules]]"')
    assert capsys.readouterr().out == f'{NAME} "[[rules]]"\n'
