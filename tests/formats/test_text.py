"""Texts to measure on: the shipped ones are there byte for byte, strange files are refused."""

import hashlib
import os

import pytest

from ggufkit.errors import InputError, UsageError
from ggufkit.formats import strict_json
from ggufkit.formats.text import decoded, read_text, read_utf8, shipped_text

PROSE_SHA256 = "6e5760e8c3e6e1186995b4eab94e02e622242aa99a75ed8b4cf6c1e9ffef83fe"


def test_the_shipped_prose_is_what_the_figures_were_measured_on():
    assert hashlib.sha256(shipped_text("evaluation-prose.txt").encode()).hexdigest() == PROSE_SHA256
    assert shipped_text("evaluation-code.txt").startswith("\n")


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UsageError, match=r"Known: .*evaluation-prose\.txt"):
        shipped_text("../README.md")


def test_a_file_is_read_as_it_stands(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("a\r\né\n".encode())
    assert read_text(path) == "a\r\né\n"


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"ab\xff")
    with pytest.raises(InputError, match="not UTF-8 at byte 2"):
        read_text(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="0 bytes"):
        read_text(path)
    with pytest.raises(InputError, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        read_text(tmp_path / "absent")


def test_a_byte_order_mark_is_passed_over_everywhere(tmp_path):
    """By one function, so one place cannot forget it: texts, small files, JSON. Lines may end in CR LF."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\n")
    assert read_text(path) == read_utf8(path, 100, InputError) == "a\r\n"
    assert strict_json.loads(b'\xef\xbb\xbf{"a": 1}\r\n') == {"a": 1}
    assert decoded(b"\xef\xbb\xbf") == "" and decoded(b"a\xef\xbb\xbf") == "a\ufeff"


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("é".encode("utf-16"), "UTF-16, not UTF-8"),
        (b"\xfe\xff\0e", "UTF-16, not UTF-8"),
        ("é".encode("utf-32"), "UTF-32, not UTF-8"),
        (b"\xef\xbb\xbfab\xe9", "not UTF-8 at byte 5"),
        (b"\xed\xa0\x80", "not UTF-8 at byte 0"),
    ],
)
def test_other_encodings_are_named(raw, wanted, tmp_path):
    with pytest.raises(ValueError, match=wanted):
        decoded(raw)
    (tmp_path / "a.toml").write_bytes(raw)
    with pytest.raises(InputError, match=wanted):
        read_utf8(tmp_path / "a.toml", 100, InputError)


def test_a_pipe_in_the_place_of_a_small_file_is_refused_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.toml")
    with pytest.raises(InputError, match="not a regular file"):
        read_utf8(tmp_path / "a.toml", 100, InputError)
