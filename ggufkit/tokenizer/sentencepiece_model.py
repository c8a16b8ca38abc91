"""`tokenizer.model`: the protobuf message of SentencePiece, read as far as a vocabulary needs it.

    message    field*              field    tag: varint (number << 3 | kind), then
                                            kind 0: varint   1: 8 bytes   2: varint length + bytes   5: 4 bytes
    ModelProto   1: piece (repeated)   2: trainer_spec    3: normalizer_spec
    piece        1: text, UTF-8        2: score, f32      3: type (1 normal … 6 byte: GGUF's numbers)
    trainer_spec 3: model_type (1 unigram, 2 bpe, …)      normalizer_spec 3: add_dummy_prefix

Knows the wire format and these fields; skips all others. Does not cut text: llama.cpp does.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gguf import TokenType

MAX_PIECES = 1 << 20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BPE = 2


class Piece(NamedTuple):
    text: str
    score: float
    type: TokenType


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """pieces in the order of their ids; add_dummy_prefix: a space is put before every text."""

    pieces: tuple[Piece, ...]
    add_dummy_prefix: bool


def parse_model(raw: bytes) -> SentencePieceModel:
    """The vocabulary in the bytes of a tokenizer.model. Raises ValueError, with the reason, for other bytes."""
    pieces: list[Piece] = []
    prefix = True
    for number, value in _fields(raw):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value))
        elif number == 2 and isinstance(value, bytes):
            _check_kind(value)
        elif number == 3 and isinstance(value, bytes):
            prefix = all(setting != 0 for field, setting in _fields(value) if field == 3)
        if len(pieces) > MAX_PIECES:
            raise ValueError(f"more than {MAX_PIECES} pieces")
    if not any(piece.type == TokenType.UNKNOWN for piece in pieces):
        raise ValueError("no piece stands for unknown text")
    if len({piece.text for piece in pieces}) != len(pieces):
        raise ValueError("a piece is given twice")
    return SentencePieceModel(tuple(pieces), prefix)


def _piece(raw: bytes) -> Piece:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(raw):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    if not text:
        raise ValueError("an empty piece")
    return Piece(text, score, TokenType(kind))


def _check_kind(trainer_spec: bytes) -> None:
    """llama.cpp cuts by joining pairs, as a BPE model does; a unigram model would be cut otherwise."""
    for number, value in _fields(trainer_spec):
        if number == 3 and value != _BPE:
            raise ValueError(f"model type {value!r}, wanted {_BPE} (BPE)")


def _fields(raw: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """(field number, value) in order: varint → int, 4 bytes → float, length-delimited → bytes; 8 bytes are skipped."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(raw, at)
            yield number, value
            continue
        if kind not in (_FIXED64, _BYTES, _FIXED32):
            raise ValueError(f"wire type {kind} at byte {at}")
        length, at = _varint(raw, at) if kind == _BYTES else ({_FIXED64: 8, _FIXED32: 4}[kind], at)
        content, at = raw[at : at + length], at + length
        if at > len(raw):
            raise ValueError(f"field {number} ends {at - len(raw)} bytes behind the end")
        if kind == _FIXED32:
            yield number, struct.unpack("<f", content)[0]
        elif kind == _BYTES:
            yield number, content


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """(value, next position): seven bits a byte, low ones first, the eighth says that more follow."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(raw):
            break
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number that does not end at byte {at}")
