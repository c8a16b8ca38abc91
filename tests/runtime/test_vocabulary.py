"""Text to ids and back: sentencepiece is the oracle for ids, bytes for pieces."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
import sentencepiece

from ggufkit.errors import EngineError
from ggufkit.runtime.vocabulary import Utf8Stream, Vocabulary

from .conftest import ROOT

TEXTS = (
    "Once upon a time",
    " two  spaces\n\n\tand a tab ",
    "naïve café — 漢字 🦙",
    "def f(x):\n    return x ** 2\n",
    "",
)


@pytest.fixture(scope="module")
def pieces():
    return sentencepiece.SentencePieceProcessor(model_file=str(ROOT / "models" / "stories260K" / "tokenizer.model"))


@pytest.mark.parametrize("text", [text for text in TEXTS if "  " not in text])  # this one's model squeezes spaces
def test_ids_are_sentencepiece_s(engine, pieces, text):
    ids = engine.tokenize(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == [pieces.bos_id(), *pieces.encode(text)]


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_text_comes_back(engine, text):
    assert engine.vocab.detokenize(engine.tokenize(text)) == " " + text  # SentencePiece puts a space in front


def test_control_tokens_are_read_only_where_asked(engine):
    assert engine.vocab.eos not in engine.tokenize("a</s>b")
    assert engine.vocab.eos in engine.tokenize("a</s>b", parse_special=True)


def test_control_tokens_are_known_and_end_text(engine):
    assert {"<s>", "</s>"} <= set(engine.vocab.control_texts)
    assert engine.vocab.eos in engine.vocab.eog
    assert engine.vocab.piece(engine.vocab.eos) == b""
    assert engine.vocab.piece(engine.vocab.eos, special=True) == b"</s>"


def test_a_token_outside_the_vocabulary_is_refused(engine):
    for token in (-1, engine.vocab.n_vocab):
        with pytest.raises(EngineError, match="outside the vocabulary of 512"):
            engine.vocab.piece(token)


def test_a_piece_longer_than_the_buffer_is_read_whole(engine):
    long = b"=" * 300

    def token_to_piece(_vocab, _token, buffer, size, _lstrip, _special):
        if size < len(long):
            return -len(long)
        ctypes.memmove(buffer, long, len(long))
        return len(long)

    vocab = Vocabulary(engine.lib, engine._model)
    vocab._lib = SimpleNamespace(llama_token_to_piece=token_to_piece)
    assert vocab.piece(5) == long


def test_a_split_character_waits_for_its_end():
    stream = Utf8Stream()
    assert [stream.push(bytes([b])) for b in "🦙é".encode()] == ["", "", "", "🦙", "", "é"]
    assert stream.finish() == ""


def test_bytes_that_are_no_text_do_not_stall_the_stream():
    stream = Utf8Stream()
    assert stream.push(b"\xff" * 100) == "\ufffd" * 100
    assert stream.push(b"\xf0\x9f") == ""
    assert stream.push(b"ok") == "\ufffdok"
    stream.push(b"\xe6")
    assert stream.finish() == "\ufffd"
