"""Tables on narrow terminals: lines that fit, cells that break where a reader expects it, and never elsewhere."""

import re

import pytest

from ggufkit.reports.columns import columns, wrapped

NAME = "blk.{0-2,5,8,11,14,17,20,23,26-29,31,33,35-41}.ffn_down_exps.weight"
HEADER = ("tensor", "shape", "type", "size", "why")
ROWS = [
    ("output.weight", "1024 x 256", "Q6_K", "210 KiB", "output"),
    (NAME, "8 x 256 x 256", "IQ2_XXS", "576.12 MiB", "576 columns, Q4_K needs a multiple of 256: Q5_0 instead"),
    ("blk.{3-4,6-7}.attn_v.weight", "64 x 256", "Q8_0", "68.00 KiB", "attn_v is small beside 8 experts"),
]
SOFT = {0: ",.", 4: " "}


@pytest.mark.parametrize("width", [72, 80, 100, 120, 200])
def test_every_line_fits_and_no_cell_is_lost(width: int) -> None:
    shown = columns(HEADER, ROWS, right=(1, 3), soft=SOFT, width=width)
    lines = shown.split("\n")
    assert max(map(len, lines)) <= width
    for row in ROWS:
        for i, cell in enumerate(row):
            if i not in SOFT:
                assert any(re.search(rf"(^|  ){re.escape(cell)}(  |$)", line) for line in lines), cell
    assert set("".join(ROWS[1]).replace(" ", "")) <= set(shown)


@pytest.mark.parametrize("width", [72, 80, 100])
def test_names_break_behind_commas_and_dots_only(width: int) -> None:
    lines = columns(("tensor", "type"), [(NAME, "Q6_K" * 8)], soft={0: ",."}, width=width).split("\n")[1:]
    pieces = [line.split("  ")[0].strip() for line in lines]
    assert len(pieces) > 1
    assert "".join(pieces) == NAME
    assert all(piece.endswith((",", ".")) for piece in pieces[:-1])


def test_sentences_give_way_before_names() -> None:
    row = ("blk.{0-3}.ffn_down_exps.weight", "8 x 256 x 256", "Q4_K", "576 KiB", "attn_v is small beside 8 experts")
    lines = columns(HEADER, [row], right=(1, 3), soft=SOFT, width=92).split("\n")
    assert row[0] in lines[1]
    assert lines[2].strip()


def test_in_a_pipe_a_row_is_one_line_and_a_long_name_moves_its_own_row_only() -> None:
    lines = columns(HEADER, ROWS, right=(1, 3), soft=SOFT).split("\n")
    assert len(lines) == 1 + len(ROWS)
    assert all(" ".join(row) == " ".join(lines[i + 1].split()) for i, row in enumerate(ROWS))
    assert lines[1].index("1024") < len(NAME)


def test_what_cannot_be_narrowed_is_left() -> None:
    assert columns(("a",), [("x" * 50,)], width=10) == "a\n" + "x" * 50


def test_sentences_wrap_between_words() -> None:
    text = "note: " + "word " * 40 + "\nshort"
    lines = wrapped(text, 80).split("\n")
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("  word")
    assert lines[-1] == "short"
    assert wrapped(text, None) == text
