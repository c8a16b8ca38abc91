"""What a terminal shows: the bars of every command, and names that look like markup."""

import io
import sys

import pytest

from ggufkit.cli import console
from ggufkit.progress import Progress

NAME = "tiny[/b] [Q4] :fire:.gguf"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("unit", "amount"), [("bytes", "4 B of 4 B"), ("chunks", "4 of 4")])
def test_a_bar_is_drawn_before_the_total_is_known(unit: str, amount: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with console.progress(NAME) as update:
        update(Progress(1, 4, unit, "blk.0[/dim]"))
        update(Progress(4, 4, unit, "blk.1[/dim]"))
    shown = terminal.getvalue()
    assert NAME in shown
    assert "blk.1[/dim]" in shown
    assert amount in shown


def test_results_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.out().print(f'{NAME} "[[rules]]"')
    assert capsys.readouterr().out == f'{NAME} "[[rules]]"\n'
