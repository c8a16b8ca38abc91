"""The parser of tokenizer.model against the SentencePiece library, and against damage."""

from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from gguf import TokenType

from ggufkit.tokenizer.sentencepiece_model import parse_model

ROOT = Path(__file__).parents[2]
MODELS = [
    *(ROOT / "tests" / "data" / "parity" / f"{name}.model" for name in ("spm", "spm_user")),
    *(ROOT / "models" / name / "tokenizer.model" for name in ("tiny-mixtral", "stories260K")),
]


def type_of(model, i):
    checks = (model.IsUnknown, TokenType.UNKNOWN), (model.IsControl, TokenType.CONTROL), (model.IsByte, TokenType.BYTE)
    return next((kind for check, kind in checks if check(i)), TokenType.NORMAL)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_pieces_are_the_librarys(path):
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ours = parse_model(path.read_bytes()).pieces
    wanted = [(library.IdToPiece(i), library.GetScore(i), type_of(library, i)) for i in range(library.vocab_size())]
    got = [piece._replace(type=TokenType.NORMAL) if piece.type == TokenType.USER_DEFINED else piece for piece in ours]
    assert got == wanted


def test_user_defined_symbols_are_told_apart():
    kinds = {piece.text: piece.type for piece in parse_model(MODELS[1].read_bytes()).pieces}
    assert {text for text, kind in kinds.items() if kind == TokenType.USER_DEFINED} == {"<|user|>", "[TOOL]"}


def test_cut_off_anywhere_gives_a_value_error_or_a_shorter_vocabulary():
    raw = MODELS[0].read_bytes()
    whole = len(parse_model(raw).pieces)
    for length in range(0, len(raw), 29):
        try:
            assert len(parse_model(raw[:length]).pieces) <= whole
        except ValueError:
            continue


def test_flipped_bits_raise_nothing_but_value_errors():
    rng, raw = np.random.default_rng(0), MODELS[0].read_bytes()
    for _ in range(300):
        damaged = bytearray(raw)
        damaged[rng.integers(len(raw))] ^= 1 << rng.integers(8)
        try:
            parse_model(bytes(damaged))
        except ValueError:
            continue


def test_a_unigram_model_is_refused():
    piece = b"\x0a\x08\x0a\x01a\x18\x02\x15\x00\x00\x00\x00"[:2] + b"\x0a\x01a\x15\x00\x00\x00\x00"
    unknown = b"\x0a\x07\x0a\x03<u>\x18\x02"
    with pytest.raises(ValueError, match="model type 1, wanted 2"):
        parse_model(unknown + piece + b"\x12\x02\x18\x01")


def test_no_dummy_prefix_is_seen():
    unknown = b"\x0a\x07\x0a\x03<u>\x18\x02"
    assert parse_model(unknown).add_dummy_prefix
    assert not parse_model(unknown + b"\x1a\x02\x18\x00").add_dummy_prefix
