"""Byte-level BPE vocabularies: tokens, types and merges of tokenizer.json.

Knows the two ways merges are written, and added tokens. Does not know how text is cut before the merges
(`pretokenizer`), special ids or templates (`special`).
"""

from functools import cache
from typing import Any

from gguf import GGUFValueType, Keys, TokenType

from ggufkit.errors import TokenizerError
from ggufkit.formats.model import KV
from ggufkit.tokenizer.files import TokenizerFiles, expect, is_int
from ggufkit.tokenizer.pretokenizer import pretokenizer_id
from ggufkit.tokenizer.rows import filled
from ggufkit.tokenizer.special import quiet_roles, role_texts
from ggufkit.tokenizer.spm import SPACE, AddedToken, declared_tokens, has_row, looks_special, parse_added

_SPACE_IN_MERGE = chr(ord(" ") + 256)  # as the byte-level alphabet writes a space


def from_tokenizer_json(
    files: TokenizerFiles,
    n_vocab: int,
    *,
    tokenizer: dict[str, Any] | None = None,
    pre_alias: dict[str, str] | None = None,
) -> tuple[KV, ...]:
    """Vocabulary of a byte-level BPE in tokenizer.json, padded to `n_vocab` rows with [PADi].

    tokenizer  what stands in for tokenizer.json where the folder has none
    pre_alias  the family's own name for a pre-tokenizer that several families share: {"gpt-2": "phi-2"}

    Raises TokenizerError on malformed files, an unknown pre-tokenizer, or a vocabulary with more tokens than rows.
    """
    where = "vocab.json" if tokenizer else "tokenizer.json"
    tokenizer = tokenizer or files.read_object("tokenizer.json")
    vocab = vocabulary(tokenizer, n_vocab, where)
    pre = pretokenizer_id(tokenizer)
    texts: list[str | None] = [None] * n_vocab
    types = [int(TokenType.UNUSED)] * n_vocab
    for text, number in vocab.items():
        texts[number], types[number] = text, int(TokenType.NORMAL)
    pairs = merge_pairs(tokenizer, vocab, files)
    quiet = ordinary(quiet_roles(files), vocab, pairs)
    for token in added_tokens(files, tokenizer, vocab, n_vocab, declared=_declared(files)):
        if token.text not in quiet:
            texts[token.number], types[token.number] = _added(token)
    merges = [" ".join(pair) for pair in pairs]
    if not merges:
        raise TokenizerError(f"{files.folder}: the BPE vocabulary has no merges. Fetch tokenizer.json again.")
    return (
        KV(Keys.Tokenizer.MODEL, GGUFValueType.STRING, "gpt2"),
        KV(Keys.Tokenizer.PRE, GGUFValueType.STRING, (pre_alias or {}).get(pre, pre)),
        KV(Keys.Tokenizer.LIST, GGUFValueType.ARRAY, filled(texts), GGUFValueType.STRING),
        KV(Keys.Tokenizer.TOKEN_TYPE, GGUFValueType.ARRAY, types, GGUFValueType.INT32),
        KV(Keys.Tokenizer.MERGES, GGUFValueType.ARRAY, merges, GGUFValueType.STRING),
    )


def vocabulary(tokenizer: dict[str, Any], n_vocab: int, where: str = "tokenizer.json") -> dict[str, int]:
    """Token → number of a BPE model. Raises TokenizerError on numbers that are malformed, given twice or too large."""
    model = expect(tokenizer.get("model"), dict, "tokenizer.json: model")
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(
            f"tokenizer.json: model is {model.get('type')!r}, wanted BPE. It cannot be stored in GGUF."
        )
    vocab: dict[str, int] = expect(model.get("vocab"), dict, f"{where}: vocab")
    owner: dict[int, str] = {}
    for text, number in vocab.items():
        if not is_int(number) or number < 0:
            raise TokenizerError(f"{where}: token {text!r} has number {number!r}. The file is malformed.")
        if number >= n_vocab:
            raise TokenizerError(
                f"{where}: token {text!r} has number {number}, the model has {n_vocab} rows of embeddings. "
                "Tokenizer and weights do not belong together."
            )
        if number in owner:
            raise TokenizerError(f"{where}: {owner[number]!r} and {text!r} are both number {number}.")
        owner[number] = text
    return vocab


def merge_pairs(
    tokenizer: dict[str, Any], vocab: dict[str, int], files: TokenizerFiles | None = None
) -> list[tuple[str, str]]:
    """Merges, best first, written as "a b" or as ["a", "b"]. Raises TokenizerError where one makes an unknown token."""
    listed = expect(tokenizer["model"].get("merges") or [], list, "tokenizer.json: merges")
    if not listed and files is not None and files.exists("merges.txt"):
        lines = files.read_text("merges.txt").split("\n")
        listed = [line.strip() for line in lines if line.strip() and not line.startswith("#version")]
    where = "merges.txt" if listed and not tokenizer["model"].get("merges") else "tokenizer.json"
    pairs = []
    for rank, merge in enumerate(listed):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], str)):
            raise TokenizerError(f'{where}: merge {rank} is {merge!r:.80}, wanted "a b" or ["a", "b"].')
        left, right = pair
        if not (left in vocab and right in vocab and left + right in vocab):
            token = next(token for token in (left, right, left + right) if token not in vocab)
            raise TokenizerError(f"{where}: merge {rank} needs token {token!r}, which the vocabulary lacks.")
        pairs.append((left.replace(" ", _SPACE_IN_MERGE), right.replace(" ", _SPACE_IN_MERGE)))
    return pairs


def ordinary(texts: set[str], vocab: dict[str, int], pairs: list[tuple[str, str]]) -> set[str]:
    """Those of `texts` that text is made of: single letters, and what merges make. Markers are neither."""
    known = texts & vocab.keys()
    return {text for text in known if len(text) == 1 or any(left + right == text for left, right in pairs)}


def added_tokens(
    files: TokenizerFiles,
    tokenizer: dict[str, Any],
    vocab: dict[str, int],
    n_vocab: int,
    *,
    declared: tuple[AddedToken, ...] = (),
) -> list[AddedToken]:
    """Added tokens of tokenizer.json, then those that only tokenizer_config.json has. Later ones never displace.

    A token without a row of embeddings is left out with a note.
    """
    out: dict[str, AddedToken] = {}
    used = {number: text for text, number in vocab.items()}
    where = "tokenizer.json: added_tokens"
    for entry in expect(tokenizer.get("added_tokens") or [], list, where):
        token = parse_added(expect(entry, dict, where), entry.get("id"))
        other = used.setdefault(token.number, token.text)
        if other != token.text or vocab.get(token.text, token.number) != token.number:
            raise TokenizerError(
                f"tokenizer.json: added token {token.text!r} is number {token.number}, as is {other!r}."
            )
        if has_row(files, token.text, token.number, n_vocab):
            out.setdefault(token.text, token)
    for token in declared:
        number = vocab.get(token.text, token.number)
        if token.text not in out and 0 <= number < n_vocab and used.get(number, token.text) == token.text:
            out[token.text] = AddedToken(number, token.text, token.special, token.normalized)
    return list(out.values())


def _declared(files: TokenizerFiles) -> tuple[AddedToken, ...]:
    """Added tokens that tokenizer_config.json knows: its table, and ordinary tokens to which it gives a role."""
    # the number is the vocabulary's: a role for a token that no file numbers has no row and is left out
    roles = role_texts(files.read_object("tokenizer_config.json"))
    return (*declared_tokens(files), *(AddedToken(1 << 62, text, True, False) for text in roles.values()))


def _added(token: AddedToken) -> tuple[str, int]:
    text = token.text if token.normalized else _through_bytes(token.text)
    if token.special or looks_special(text):
        return text, int(TokenType.CONTROL)
    return text.replace(SPACE, " "), int(TokenType.USER_DEFINED)


def _through_bytes(text: str) -> str:
    """What decoding gives for a token's text: letters of the byte-level alphabet stand for bytes."""
    alphabet = _byte_of_letter()
    if not all(letter in alphabet for letter in text):
        return text
    return bytes(alphabet[letter] for letter in text).decode("utf-8", errors="replace")


def letters(raw: bytes) -> str:
    """Bytes in the byte-level alphabet."""
    alphabet = _letter_of_byte()
    return "".join([alphabet[byte] for byte in raw])


@cache
def _letter_of_byte() -> dict[int, str]:
    return {byte: letter for letter, byte in _byte_of_letter().items()}


@cache
def _byte_of_letter() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes are themselves, the other 68 are U+0100 onwards in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}
