"""Text of strangers steers nothing: not a terminal, not the direction of reading, not a runner."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.formats.printable import AnswerFilter, cleaned, for_json, for_log, printable

HOSTILE = "\x1b[2J\x07\r\n\t\x7f\x9b31m\u202e\u2066\u200f\u061c\u2028\u2029\ufeff\ud800\U000e0041"
ESCAPED = r"\x1b[2J\x07\r\n\t\x7f\x9b31m\u202e\u2066\u200f\u061c\u2028\u2029\ufeff\ud800\U000e0041"


def test_everything_unsafe_is_written_out() -> None:
    assert printable(HOSTILE) == ESCAPED
    assert printable("a\nb\tc\r", lines=True) == "a\nb\tc" + r"\r"


@pytest.mark.parametrize("text", ["", "plain", "größe-日本", "▁token", "👩‍👩‍👧", "שלום", "a\u00a0b", "\u200b"])
def test_what_people_write_stays(text: str) -> None:
    assert printable(text) == text


@given(st.text())
def test_nothing_steers(text: str) -> None:
    safe = printable(text)
    assert printable(safe) == safe
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in safe)
    assert safe == safe.encode("utf-8").decode()


def test_no_line_is_a_command_to_a_runner() -> None:
    assert for_log("ok ::x::\n  ::error::a\n##[group]b\n#c") == "ok ::x::\n  \\x3a:error::a\n\\x23#[group]b\n#c"


def test_json_keeps_its_meaning() -> None:
    raw = json.dumps({"a": "\u202e\U000e0041\x7f\x85 ü\n"}, ensure_ascii=False)
    safe = for_json(raw)
    assert json.loads(safe) == json.loads(raw)
    assert "ü" in safe
    assert not any(char in safe for char in "\u202e\U000e0041\x7f\x85")


class _Pair(NamedTuple):
    name: str
    n: int


@dataclasses.dataclass(frozen=True)
class _Result:
    name: str
    rows: tuple[_Pair, ...]
    more: dict[str, list[Path]]


def test_a_result_is_cleaned_through_and_through() -> None:
    result = _Result("a\x1b", (_Pair("b\n", 1),), {"c\u202e": [Path("d\x07/e")]})
    assert cleaned(result) == _Result(r"a\x1b", (_Pair(r"b\n", 1),), {r"c\u202e": [Path(r"d\x07/e")]})
    assert cleaned(result, lines=True).rows == (_Pair("b\n", 1),)


@given(st.lists(st.integers(1, 5), max_size=80))
def test_an_answer_loses_its_control_sequences_however_it_is_cut(sizes: list[int]) -> None:
    text = "a\x1b[31mred\x1b[0m b\n\tc\x1b]0;title\x07d\x1b]52;c;YWJj\x1b\\e\x07\r\u202ef\x1b[?25l"
    text += "g\x9b1mh\x1bP1$r\x1b\\i\x1b(Bj"
    shown, filtered, at = "", AnswerFilter(), 0
    for size in [*sizes, len(text)]:
        shown += filtered.push(text[at : at + size])
        at += size
    assert shown == "ared b\n\tcdefghij"


def test_a_sequence_without_an_end_does_not_swallow_the_answer() -> None:
    filtered = AnswerFilter()
    shown = "".join(filtered.push(piece) for piece in ["\x1b]0;", *["word "] * 40])
    assert "word word" in shown
    assert "\x1b" not in shown
