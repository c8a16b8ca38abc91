"""SentencePiece vocabularies: `tokenizer.model`, or the same vocabulary as a BPE with byte fallback in tokenizer.json.

Knows pieces, scores, token types and where added tokens are declared. Does not know special ids or templates.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gguf import GGUFValueType, Keys, TokenType

from ggufkit.errors import TokenizerError
from ggufkit.formats.model import KV
from ggufkit.tokenizer.files import MalformedError, TokenizerFiles, expect, is_int
from ggufkit.tokenizer.rows import filled
from ggufkit.tokenizer.sentencepiece_model import SentencePieceModel, parse_model
from ggufkit.tokenizer.special import quiet_roles

MODEL = "tokenizer.model"
SPACE = "\u2581"
ADDED_SCORE = -1000.0
PAD_SCORE = -10000.0
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<\uff5c.*\uff5c>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)


def looks_special(text: str) -> bool:
    """Added tokens that ought to be control tokens, whatever their file says. Source: does_token_look_special."""
    return _LOOKS_SPECIAL.fullmatch(text) is not None


@dataclass(slots=True)
class Pieces:
    """Token texts, scores and types of n_vocab rows; rows that no file names stay [PADi], unused."""

    n_vocab: int
    texts: list[str | None] = field(init=False)
    scores: list[float] = field(init=False)
    types: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.texts = [None] * self.n_vocab
        self.scores = [PAD_SCORE] * self.n_vocab
        self.types = [int(TokenType.UNUSED)] * self.n_vocab

    def put(self, number: int, text: str, score: float, kind: TokenType) -> None:
        self.texts[number], self.scores[number], self.types[number] = text, score, int(kind)

    def metadata(self) -> tuple[KV, ...]:
        return (
            KV(Keys.Tokenizer.MODEL, GGUFValueType.STRING, "llama"),
            KV(Keys.Tokenizer.PRE, GGUFValueType.STRING, "default"),
            KV(Keys.Tokenizer.LIST, GGUFValueType.ARRAY, filled(self.texts), GGUFValueType.STRING),
            KV(Keys.Tokenizer.SCORES, GGUFValueType.ARRAY, self.scores, GGUFValueType.FLOAT32),
            KV(Keys.Tokenizer.TOKEN_TYPE, GGUFValueType.ARRAY, self.types, GGUFValueType.INT32),
        )


def from_model(files: TokenizerFiles, model: SentencePieceModel, n_vocab: int, *, phi3: bool = False) -> tuple[KV, ...]:
    """Vocabulary of `tokenizer.model`, padded to `n_vocab` rows. A token beyond them is left out with a note.

    phi3  take added tokens from tokenizer.json too, as they are spelled (Phi-3)
    """
    pieces = Pieces(n_vocab)
    for number, piece in enumerate(model.pieces):
        whole = piece.type == TokenType.USER_DEFINED  # llama.cpp seeks these in the text as it was typed
        pieces.put(number, piece.text.replace(SPACE, " ") if whole else piece.text, piece.score, piece.type)
    for text, number in files.read_object("added_tokens.json").items():
        if not is_int(number) or number < 0:
            files.note(f"added_tokens.json: {text!r:.80} has number {number!r:.80}, wanted one from 0")
        elif _has_place(files, pieces, text, number):
            pieces.put(number, text, ADDED_SCORE, TokenType.USER_DEFINED)
    quiet = quiet_roles(files)
    for token in declared_tokens(files):
        _put_declared(files, pieces, token, quiet, as_spelled=phi3)
    if phi3:
        where = "tokenizer.json: added_tokens"
        for entry in expect(files.read_object("tokenizer.json").get("added_tokens") or [], list, where):
            token = parse_added(expect(entry, dict, where), entry.get("id"))
            _put_declared(files, pieces, token, quiet, as_spelled=True)
    if model.add_dummy_prefix or "add_prefix_space" in files.read_object("tokenizer_config.json"):
        return pieces.metadata()
    return (*pieces.metadata(), KV(Keys.Tokenizer.ADD_PREFIX, GGUFValueType.BOOL, False))


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is cut out of the text before anything else. `normalized`: sought in the normalized text."""

    number: int
    text: str
    special: bool
    normalized: bool


def parse_added(entry: dict[str, Any], number: Any) -> AddedToken:
    """The token of an entry, as tokenizer.json and tokenizer_config.json write them. Raises MalformedError."""
    text = expect(entry.get("content"), str, "added token: content")
    if not is_int(number) or number < 0:
        raise MalformedError(f"added token {text!r} has number {number!r}. The tokenizer's files are malformed.")
    special = bool(entry.get("special"))
    return AddedToken(number, text, special, bool(entry.get("normalized", not special)))


def has_row(files: TokenizerFiles, text: str, number: int, n_vocab: int) -> bool:
    """Whether a token can be used at all; one without a text, or whose number has no row of embeddings, is left out."""
    if not text:
        files.note(f"added token with number {number} has no text")
        return False
    if number >= n_vocab:
        files.without_row[text] = number
    return number < n_vocab


def declared_tokens(files: TokenizerFiles) -> Iterable[AddedToken]:
    """Entries of added_tokens_decoder in tokenizer_config.json; malformed ones are left out with a note."""
    where = "tokenizer_config.json: added_tokens_decoder"
    table = files.read_object("tokenizer_config.json").get("added_tokens_decoder") or {}
    if not isinstance(table, dict):
        files.note(f"{where} is a {type(table).__name__}, wanted numbers with tokens")
        return
    for number, entry in table.items():
        is_number = number.isascii() and number.isdecimal() and len(number) <= 9
        try:
            yield parse_added(expect(entry, dict, where), int(number) if is_number else number)
        except MalformedError as error:
            files.note(f"{where}: {error}")


def read_model(files: TokenizerFiles, n_vocab: int, name: str = MODEL) -> SentencePieceModel:
    """The SentencePiece model of the folder. Raises TokenizerError for another file, or more pieces than rows."""
    path = files.folder / name
    try:
        model = parse_model(files.read_bytes(name))
    except ValueError as error:
        raise TokenizerError(f"{path}: is not a SentencePiece model: {error}. Fetch the file again.") from error
    if len(model.pieces) > n_vocab:
        raise TokenizerError(
            f"{path}: {len(model.pieces)} pieces, the model has {n_vocab} rows of embeddings. "
            "Tokenizer and weights do not belong together."
        )
    return model


def _has_place(files: TokenizerFiles, pieces: Pieces, text: str, number: int) -> bool:
    """A byte's number is not for another text: without all bytes llama.cpp dies of the first text that needs one."""
    if not has_row(files, text, number, pieces.n_vocab):
        return False
    byte = pieces.texts[number] if pieces.types[number] == TokenType.BYTE else text
    if byte != text:
        files.note(f"added token {text!r:.80} has number {number}, which is the byte {byte}")
    return byte == text


def _put_declared(
    files: TokenizerFiles, pieces: Pieces, token: AddedToken, quiet: set[str], *, as_spelled: bool
) -> None:
    number, text = token.number, token.text
    if not _has_place(files, pieces, text, number):
        return
    if text in quiet and (pieces.texts[number], pieces.types[number]) == (text, TokenType.NORMAL):
        return  # an ordinary piece that also pads stays one: a control token would vanish from answers
    control = token.special or (not as_spelled and looks_special(text))
    if not control and not as_spelled:
        text = text.replace(SPACE, " ")  # llama.cpp compares user-defined tokens with plain text
    pieces.put(number, text, ADDED_SCORE, TokenType.CONTROL if control else TokenType.USER_DEFINED)


def is_llama_bpe(tokenizer: dict[str, Any]) -> bool:
    """Whether tokenizer.json holds a SentencePiece vocabulary: BPE with byte fallback and a Sequence decoder."""
    model, decoder = tokenizer.get("model"), tokenizer.get("decoder")
    return (
        isinstance(model, dict)
        and isinstance(decoder, dict)
        and model.get("type") == "BPE"
        and bool(model.get("byte_fallback"))
        and decoder.get("type") == "Sequence"
    )
