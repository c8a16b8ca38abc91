"""Texts to measure on: the shipped ones are there byte for byte, strange files are refused."""

import hashlib

import pytest

from ggufkit.errors import InputError, UsageError
from ggufkit.formats.text import read_text, shipped_text

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
    with pytest.raises(InputError, match="byte 2 is not UTF-8"):
        read_text(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="0 bytes"):
        read_text(path)
    with pytest.raises(InputError, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        read_text(tmp_path / "absent")
