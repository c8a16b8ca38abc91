"""`Vocabulary`: text to token ids and back, as the loaded model does it.

Knows the C tokenizer. Does not know files or contexts; a model must stay open while its vocabulary is used.
"""

import codecs
import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ggufkit.errors import EngineError, InputError
from ggufkit.formats.files import shown
from ggufkit.runtime import boundary, library
from ggufkit.runtime.batch import I32Array, pointer_to
from ggufkit.runtime.checks.vocabulary import Spelling

MAX_TEXT_NBYTES = 1 << 30  # llama_tokenize takes an int32 length
_LONG_NBYTES = 64 << 10  # llama.cpp looks for every user-defined token in all of a text: half a minute in one call
_TYPE_NONE = 0  # llama.h LLAMA_VOCAB_TYPE_NONE
# llama.h LLAMA_TOKEN_ATTR_*
_ATTR_UNKNOWN, _ATTR_CONTROL, _ATTR_USER_DEFINED = 1 << 0, 1 << 3, 1 << 4


class Vocabulary:
    """Token ids of one model.

    n_vocab  number of tokens
    bos      id of the begin token, -1 where there is none
    add_bos  whether the model wants it in front of a text
    """

    def __init__(self, lib: ModuleType, model: Any, spelling: Spelling | None = None) -> None:
        self._lib, self._incomplete = lib, spelling
        self._vocab = lib.llama_model_get_vocab(model)
        self._is_none = lib.llama_vocab_type(self._vocab) == _TYPE_NONE
        self._pieces: dict[int, bytes] = {}
        self._special_pieces: dict[int, bytes] = {}
        self.n_vocab: int = lib.llama_vocab_n_tokens(self._vocab)
        self.bos: int = lib.llama_vocab_bos(self._vocab)
        self.eos: int = lib.llama_vocab_eos(self._vocab)
        self.add_bos: bool = lib.llama_vocab_get_add_bos(self._vocab)
        self.add_eos: bool = lib.llama_vocab_get_add_eos(self._vocab)

    @property
    def handle(self) -> Any:
        """The llama_vocab pointer. Raises EngineError once the model is closed: llama.cpp would end the process."""
        if self._vocab is None:
            raise EngineError("the model is closed. Use it inside its `with` block.")
        if self._is_none:
            raise InputError("the file has no tokenizer (tokenizer.ggml.model is none), so it cannot read a text.")
        return self._vocab

    def close(self) -> None:
        """Forget the pointer, which ends with the model. Pieces that were read stay."""
        self._vocab = None

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> I32Array:
        """Token ids (n,) of `text`.

        add_special    BOS and EOS as the model wants them
        parse_special  read `<|im_end|>` and its like as control tokens; never for text of strangers
        """
        raw = text.encode("utf-8", errors="replace")
        vocab = self.handle
        if len(raw) > MAX_TEXT_NBYTES:
            raise InputError(
                f"the text has {len(raw)} bytes, more than the {MAX_TEXT_NBYTES} that are tokenized at once"
            )
        if self._incomplete is not None and (char := self._incomplete.unspeakable(text)) is not None:
            raise InputError(
                f"the vocabulary has no token for {shown(char)!r} nor for its bytes (<0x41> and so on), which "
                "ends llama.cpp. Leave the character out, or convert the model again with byte tokens."
            )
        n_max = len(raw) + 16
        for _ in range(2):
            out = np.empty(n_max, dtype=np.int32)
            pointer = pointer_to(out, self._lib.llama_token_p)
            with boundary.mortal() if len(raw) > _LONG_NBYTES else nullcontext():
                n = self._lib.llama_tokenize(vocab, raw, len(raw), pointer, n_max, add_special, parse_special)
            if n >= 0:
                return out[:n].copy()
            n_max = -n
        raise EngineError(f"llama_tokenize failed twice on a text of {len(raw)} bytes (asked for {n_max} tokens)")

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Bytes of one token; control tokens are empty unless `special`. Kept, so that streams pay once a token."""
        pieces = self._special_pieces if special else self._pieces
        found = pieces.get(token)
        if found is None:
            found = pieces[token] = self._read_piece(token, special)
        return found

    def _read_piece(self, token: int, special: bool) -> bytes:
        if not 0 <= token < self.n_vocab:
            raise EngineError(f"token {token} is outside the vocabulary of {self.n_vocab}")
        size = 64
        for _ in range(2):
            buffer = ctypes.create_string_buffer(size)
            n = self._lib.llama_token_to_piece(self.handle, token, buffer, size, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            size = -n
        raise EngineError(f"llama_token_to_piece failed twice on token {token}")

    def detokenize(self, tokens: I32Array, *, special: bool = False) -> str:
        """Text of `tokens`; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self.piece(int(token), special=special) for token in tokens).decode("utf-8", errors="replace")

    @cached_property
    def eog(self) -> frozenset[int]:
        """Ids that end a generation."""
        is_eog, vocab = self._lib.llama_vocab_is_eog, self.handle
        return frozenset(token for token in range(self.n_vocab) if is_eog(vocab, token))

    @cached_property
    def control_texts(self) -> tuple[str, ...]:
        """Spellings of all tokens that end or control a text, longest first: what user text must not be able to say."""
        tokens = {token for token, attr in self._special if attr & (_ATTR_CONTROL | _ATTR_UNKNOWN)} | self.eog
        return by_length(map(self.spelling, tokens))

    @cached_property
    def added_texts(self) -> tuple[str, ...]:
        """Spellings of all user-defined tokens, longest first. In any text they are read as these tokens."""
        return by_length(self.spelling(token) for token, attr in self._special if attr & _ATTR_USER_DEFINED)

    def spelling(self, token: int) -> str:
        """What stands for `token` in a text whose special tokens are read."""
        return self.piece(token, special=True).decode("utf-8", errors="replace")

    @cached_property
    def _special(self) -> list[tuple[int, int]]:
        """Tokens that are not ordinary, with their attributes."""
        get_attr, vocab = self._lib.llama_vocab_get_attr, self.handle
        wanted = _ATTR_UNKNOWN | _ATTR_CONTROL | _ATTR_USER_DEFINED
        return [(token, attr) for token in range(self.n_vocab) if (attr := get_attr(vocab, token)) & wanted]


def by_length(texts: Iterable[str]) -> tuple[str, ...]:
    """Each of `texts` of more than one character once, the longest first."""
    return tuple(sorted({text for text in texts if len(text) > 1}, key=lambda text: (-len(text), text)))


@contextmanager
def open_vocabulary(path: Path) -> Iterator[Vocabulary]:
    """The tokenizer of the GGUF at `path`, which need not hold weights. Raises EngineError with llama.cpp's reason."""
    lib = library.load()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise library.engine_error(f"{path}: llama.cpp does not load this vocabulary.")
    vocab = Vocabulary(lib, model)
    try:
        yield vocab
    finally:
        vocab.close()
        lib.llama_model_free(model)


class Utf8Stream:
    """Bytes of tokens to text as it becomes certain. Holds back at most three bytes of an unfinished character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.push = self._decoder.decode

    def finish(self) -> str:
        """What is left: U+FFFD for a character that never ended."""
        return self._decoder.decode(b"", final=True)
