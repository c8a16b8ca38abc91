"""Rows of text set in columns that fit a terminal. Knows widths; does not know what is in them.

Cells are broken where a reader expects it (between words, between the layers of a list), never within a number or a
type. Without a width, for pipes, a row is one line.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

_GAP = 2
_SENTENCE = 20  # columns in which a sentence reads well
_WIDEST = 44  # of a column that may be broken, in a pipe: longer cells push their own row aside, not all rows


def columns(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[int] = (),
    soft: Mapping[int, str] | None = None,
    width: int | None = None,
) -> str:
    """Lines of cells, two spaces apart.

    right  columns that are aligned to the right
    soft   columns that may be broken, and behind which characters: {0: ",", 4: " "}
    width  of the terminal; None breaks nothing
    """
    soft = soft or {}
    table = [list(header), *(list(row) for row in rows)]
    if not any(header):
        del table[0]
    widths = [max((len(row[i]) for row in table), default=0) for i in range(len(header))]
    if width is None:
        last = len(header) - 1
        widths = [min(w, _WIDEST) if i in soft and i != last else w for i, w in enumerate(widths)]
        return "\n".join(_line(row, widths, right) for row in table)
    widths = _narrowed(table, widths, soft, width)
    return "\n".join(line for row in table for line in _lines(row, widths, right, soft))


def wrapped(text: str, width: int | None) -> str:
    """Sentences that fit a terminal, broken between words; what they go on with is indented. None breaks nothing."""
    if width is None:
        return text
    return "\n".join(
        "\n".join(textwrap.wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))
        if len(line) > width
        else line
        for line in text.split("\n")
    )


def _narrowed(table: Sequence[Sequence[str]], widths: Sequence[int], soft: Mapping[int, str], width: int) -> list[int]:
    """Sentences give way first, then the widest soft column, down to its longest piece."""
    narrowed = list(widths)
    least = {i: max(len(piece) for row in table for piece in ("", *_pieces(row[i], soft[i]))) for i in soft}
    at_ease = {i: max(least[i], _SENTENCE) if ends == " " else narrowed[i] for i, ends in soft.items()}
    for floor in (at_ease, least):
        while sum(narrowed) + _GAP * (len(narrowed) - 1) > width:
            can = [i for i in soft if narrowed[i] > floor[i]]
            if not can:
                break
            narrowed[max(can, key=lambda i: narrowed[i])] -= 1
    return narrowed


def _lines(row: Sequence[str], widths: Sequence[int], right: Sequence[int], soft: Mapping[int, str]) -> Iterable[str]:
    cells = [broken(cell, widths[i], soft[i]) if i in soft else [cell] for i, cell in enumerate(row)]
    for at in range(max(map(len, cells))):
        yield _line([cell[at] if at < len(cell) else "" for cell in cells], widths, right)


def broken(cell: str, width: int | None, ends: str) -> list[str]:
    """Lines of at most `width`, broken behind any of the characters `ends` and nowhere else. None breaks nothing."""
    lines = [""]
    for piece in _pieces(cell, ends):
        if width is not None and lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def _pieces(cell: str, ends: str) -> list[str]:
    """The cell cut behind every one of the characters `ends`; a space belongs to the piece before it."""
    return re.findall(f"[^{re.escape(ends)}]*[{re.escape(ends)}]|[^{re.escape(ends)}]+", cell)


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    cells = (
        cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
    )
    return (" " * _GAP).join(cells).rstrip()
