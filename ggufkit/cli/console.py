"""What commands show: results on stdout, progress on stderr (a bar on a terminal, plain lines elsewhere).

Knows terminals and streams. Does not know what is being done.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task
from rich.progress import Progress as Bar
from rich.table import Column, Table
from rich.text import Text

from ggufkit.cli.pace import Pace, amount_of, clock
from ggufkit.formats.printable import for_json, for_log, printable
from ggufkit.progress import OnProgress, Progress
from ggufkit.reports.columns import wrapped
from ggufkit.reports.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from ggufkit.runtime.memory import Footprint

PLAIN_EVERY_S = 5.0


class _Results(Console):
    """Prints text as it is to be read: what strangers wrote steers nothing."""

    def print(self, *texts: Any, **options: Any) -> None:
        super().print(*(for_log(text) if isinstance(text, str) else text for text in texts), **options)


def out() -> Console:
    """Console of results. Without a terminal lines are not wrapped, so that they can be searched and cut."""
    width = None if sys.stdout.isatty() else 200
    # names from files are shown as they are, brackets and colons included
    return _Results(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False, soft_wrap=True)


def show(render: Callable[[int | None], str]) -> None:
    """A result for people: `render` gets the terminal's width, None for a pipe, where no line is broken."""
    console = out()
    width = console.width if sys.stdout.isatty() else None
    console.print(wrapped(render(width), width))


def show_result(result: Any, *, as_json: bool, **options: bool) -> None:
    """A report on stdout: as one JSON document, or as text for people; `options` are those of its view."""
    from ggufkit.reports.result import as_dict
    from ggufkit.reports.views import render

    if as_json:
        print_json(as_dict(result))
    else:
        show(lambda width: render(result, width, **options))


def say(message: str, *, lines: bool = False) -> None:
    """One line of progress or advice on stderr, whatever it quotes; or the `lines` of a text of our own."""
    click.echo(for_log(message if lines else printable(message)), err=True)


def width() -> int | None:
    """Columns of the terminal that `say` writes to; None where stderr is not a terminal."""
    return Console(stderr=True).width if sys.stderr.isatty() else None


def tell_runner(command: str) -> None:
    """A command to GitHub's runner, which reads both streams; its text must be escaped already."""
    click.echo(command, err=True)


def say_memory(plan: "Callable[[], Footprint]") -> None:
    """How much memory will be taken, before it is; what cannot be read is told by the command itself."""
    from ggufkit.errors import GgufkitError
    from ggufkit.runtime.machine import memory

    try:
        need = plan()
    except (GgufkitError, OSError):
        return
    free = memory().available
    say(
        f"memory: about {human_bytes(need.total)} (weights {human_bytes(need.weights)}, "
        f"keys and values {human_bytes(need.kv)}, computing {human_bytes(need.compute + need.base)}, "
        f"logits {human_bytes(need.logits)})" + (f"; {human_bytes(free)} are free" if free else "")
    )


def print_json(result: Any) -> None:
    """One JSON document on stdout."""
    print_utf8(json_text(result))


def json_text(result: Any) -> str:
    """One JSON document and a line break, of plain values (`reports.result.as_dict`): NaN and infinity are refused."""
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return for_json(text.encode("utf-8", errors="replace").decode())  # a name that is not Unicode must not break it


def print_text(text: str) -> None:
    """A stranger's text and a line break: byte for byte into a pipe, printable on a terminal."""
    print_utf8((printable(text, lines=True) if sys.stdout.isatty() else text) + "\n")


def print_utf8(text: str) -> None:
    """Text for programs: UTF-8 whatever the terminal's encoding is (RFC 8259 for JSON)."""
    raw = text.encode("utf-8", errors="replace")  # a name that is not Unicode must not break it
    sys.stdout.flush()
    if (binary := getattr(sys.stdout, "buffer", None)) is not None:
        binary.write(raw)
        binary.flush()
    else:
        sys.stdout.write(raw.decode())


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A plain table whose columns named in `right` are numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", no_wrap=column in right)
    return made


@contextmanager
def progress(label: str) -> Iterator[OnProgress]:
    """A bar with speed and time left on a terminal; elsewhere a line every few seconds."""
    label = printable(label)
    if sys.stderr.isatty():
        with bar(Console(stderr=True)) as shown:
            yield drawn(shown, label)
    else:
        yield plain(label)


class _Words(ProgressColumn):
    """Words about a task, cut where the line has no room for them."""

    def __init__(self, words: Callable[[Task], str], style: str = "", table_column: Column | None = None) -> None:
        self._words, self._style = words, style
        super().__init__(table_column)

    def render(self, task: Task) -> Text:
        return Text(self._words(task), style=self._style, no_wrap=True, overflow="ellipsis")


def bar(console: Console) -> Bar:
    """One line that stays one line: bar and numbers keep their width, words give way."""
    whole = Column(no_wrap=True)
    return Bar(
        _Words(lambda task: task.description),
        BarColumn(bar_width=max(4, console.width // 6), table_column=whole),
        _Words(lambda task: task.fields["amount"], table_column=whole),
        _Words(lambda task: task.fields["left"], "progress.remaining", table_column=whole),
        _Words(lambda task: task.fields["now"], "dim"),
        console=console,
        transient=True,
    )


def drawn(shown: Bar, label: str) -> OnProgress:
    """A line of that bar."""
    task, pace = shown.add_task(label, total=None, amount="", left="", now=""), Pace()

    def update(progress: Progress) -> None:
        pace.see(progress)
        amount, left, speed = amount_of(progress, pace), pace.left, pace.speed
        if progress.unit == "bytes" and speed:
            amount += f" {human_bytes(speed)}/s"
        shown.update(
            task, completed=progress.done, total=progress.total, amount=amount,
            left="--:--" if left is None else clock(left), now=printable(progress.what),
        )  # fmt: skip

    return update


def plain(label: str) -> OnProgress:
    """A line every few seconds."""
    pace, last = Pace(), time.monotonic()

    def update(progress: Progress) -> None:
        nonlocal last
        pace.see(progress)
        if time.monotonic() - last < PLAIN_EVERY_S or not progress.total:
            return
        last = time.monotonic()
        left = "" if pace.left is None else f", {human_seconds(pace.left)} left"
        say(f"{label}: {amount_of(progress, pace, percent=True)}{left}  {progress.what}")

    return update
