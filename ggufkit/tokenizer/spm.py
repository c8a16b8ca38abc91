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
from ggufkit.tokenizer.files import TokenizerFiles, expect, is_int
from ggufkit.tokenizer.sentencepiece_model import SentencePieceModel, parse_model

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
    texts: list[str] = field(init=False)
    scores: list[float] = field(init=False)
    types: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.texts = [f"[PAD{i}]" for i in range(self.n_vocab)]
        self.scores = [PAD_SCORE] * self.n_vocab
        self.types = [int(TokenType.UNUSED)] * self.n_vocab

    def put(self, number: int, text: str, score: float, kind: TokenType) -> None:
        self.texts[number], self.scores[number], self.types[number] = text, score, int(kind)

    def metadata(self) -> tuple[KV, ...]:
        return (
            KV(Keys.Tokenizer.MODEL, GGUFValueType.STRING, "llama"),
            KV(Keys.Tokenizer.PRE, GGUFValueType.STRING, "default"),
            KV(Keys.Tokenizer.LIST, GGUFValueType.ARRAY, self.texts, GGUFValueType.STRING),
            KV(Keys.Tokenizer.SCORES, GGUFValueType.ARRAY, self.scores, GGUFValueType.FLOAT32),
            KV(Keys.Tokenizer.TOKEN_TYPE, GGUFValueType.ARRAY, self.types, GGUFValueType.INT32),
        )


def from_model(files: TokenizerFiles, n_vocab: int, *, phi3: bool = False) -> tuple[KV, ...]:
    """Vocabulary of `tokenizer.model`, padded to `n_vocab` rows.

    phi3  take added tokens from tokenizer.json too, as they are spelled (Phi-3)

    Raises TokenizerError where the file is no SentencePiece model or has more pieces than the model has rows.
    """
    model = _read_model(files, n_vocab)
    pieces = Pieces(n_vocab)
    for number, piece in enumerate(model.pieces):
        whole = piece.type == TokenType.USER_DEFINED  # llama.cpp seeks these in the text as it was typed
        pieces.put(number, piece.text.replace(SPACE, " ") if whole else piece.text, piece.score, piece.type)
    for text, number in files.read_object("added_tokens.json").items():
        if not is_int(number) or number < 0:
            raise TokenizerError(f"added_tokens.json: {text!r} has number {number!r}. It is malformed.")
        if number < n_vocab:
            pieces.put(number, text, ADDED_SCORE, TokenType.USER_DEFINED)
    for number, token in declared_tokens(files):
        _put_declared(pieces, number, token, as_spelled=phi3)
    if phi3:
        added = files.read_object("tokenizer.json").get("added_tokens") or []
        for token in expect(added, list, "tokenizer.json: added_tokens"):
            _put_declared(pieces, expect(token, dict, "tokenizer.json: added_tokens").get("id"), token, as_spelled=True)
    if model.add_dummy_prefix or "add_prefix_space" in files.read_object("tokenizer_config.json"):
        return pieces.metadata()
    return (*pieces.metadata(), KV(Keys.Tokenizer.ADD_PREFIX, GGUFValueType.BOOL, False))


def declared_tokens(files: TokenizerFiles) -> Iterable[tuple[int, dict[str, Any]]]:
    """(id, description) of each entry of added_tokens_decoder in tokenizer_config.json."""
    where = "tokenizer_config.json: added_tokens_decoder"
    table = files.read_object("tokenizer_config.json").get("added_tokens_decoder") or {}
    for number, token in expect(table, dict, where).items():
        if not number.isascii() or not number.isdecimal() or len(number) > 9:
            raise TokenizerError(f"{where}: {number!r} is not a token's number. The file is malformed.")
        yield int(number), expect(token, dict, where)


def _read_model(files: TokenizerFiles, n_vocab: int) -> SentencePieceModel:
    path = files.folder / "tokenizer.model"
    try:
        model = parse_model(files.read_bytes("tokenizer.model"))
    except ValueError as error:
        raise TokenizerError(f"{path}: is not a SentencePiece model: {error}. Fetch the file again.") from error
    if len(model.pieces) > n_vocab:
        raise TokenizerError(
            f"{path}: {len(model.pieces)} pieces, the model has {n_vocab} rows of embeddings. "
            "Tokenizer and weights do not belong together."
        )
    return model


def _put_declared(pieces: Pieces, number: Any, token: dict[str, Any], *, as_spelled: bool) -> None:
    text = expect(token.get("content"), str, "added token: content")
    if not is_int(number) or number < 0:
        raise TokenizerError(f"added token {text!r} has number {number!r}. The tokenizer's files are malformed.")
    if number >= pieces.n_vocab:
        return
    control = bool(token.get("special")) or (not as_spelled and looks_special(text))
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
