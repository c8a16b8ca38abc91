"""Kimi's vocabulary: tiktoken.model, byte-level tokens by rank without merges, and special tokens behind them.

Knows the file and how merges follow from ranks. Does not know special ids or templates.
"""

import base64
import binascii
from itertools import pairwise

from gguf import GGUFValueType, Keys, TokenType

from ggufkit.errors import TokenizerError
from ggufkit.formats.model import KV
from ggufkit.tokenizer.bpe import letters
from ggufkit.tokenizer.files import TokenizerFiles
from ggufkit.tokenizer.rows import filled
from ggufkit.tokenizer.spm import declared_tokens

FILE = "tiktoken.model"
N_SPECIAL = 256  # numbers behind the ranks that its makers keep for special tokens


def from_tiktoken(files: TokenizerFiles, n_vocab: int) -> tuple[KV, ...]:
    """Vocabulary of tiktoken.model, padded to `n_vocab` rows. Special tokens that no file names are reserved ones.

    How text is cut stands in Python code beside the file; llama.cpp knows it as kimi-k2.

    Raises TokenizerError on a malformed file or a vocabulary with more tokens than rows.
    """
    ranks = _ranks(files)
    if len(ranks) > n_vocab:
        raise TokenizerError(
            f"{files.folder / FILE}: {len(ranks)} tokens, the model has {n_vocab} rows of embeddings. "
            "Tokenizer and weights do not belong together."
        )
    texts: list[str | None] = [letters(piece) for piece in ranks]
    special = {token.number: token.text for token in declared_tokens(files)}
    behind = range(len(ranks), min(len(ranks) + N_SPECIAL, n_vocab))
    texts += [special.get(number, f"<|reserved_token_{number}|>") for number in behind]
    types = [TokenType.NORMAL] * len(ranks) + [TokenType.CONTROL] * len(behind)
    types += [TokenType.UNUSED] * (n_vocab - len(texts))
    string, array = GGUFValueType.STRING, GGUFValueType.ARRAY
    return (
        KV(Keys.Tokenizer.MODEL, string, "gpt2"),
        KV(Keys.Tokenizer.PRE, string, "kimi-k2"),
        KV(Keys.Tokenizer.LIST, array, filled([*texts, *[None] * (n_vocab - len(texts))]), string),
        KV(Keys.Tokenizer.TOKEN_TYPE, array, [int(kind) for kind in types], GGUFValueType.INT32),
        KV(Keys.Tokenizer.MERGES, array, _merges(ranks), string),
    )


def _ranks(files: TokenizerFiles) -> dict[bytes, int]:
    """Bytes of each token → its rank, from 0 on without a gap; every single byte among them."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(files.read_text(FILE).split("\n")):
        if not line:
            continue
        text, _, rank = line.partition(" ")
        try:
            piece = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            piece = b""
        if not piece or piece in ranks or rank.strip() != str(len(ranks)):
            raise TokenizerError(
                f"{files.folder / FILE}: line {number + 1} is {line!r:.60}, wanted a token in base64 and rank "
                f"{len(ranks)}. Fetch the file again."
            )
        ranks[piece] = len(ranks)
    lacking = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if lacking:
        raise TokenizerError(f"{files.folder / FILE}: lacks byte {lacking[0]}. Fetch the file again.")
    return ranks


def _merges(ranks: dict[bytes, int]) -> list[str]:
    """The two tokens that each token is made of, by rank."""
    pairs = [_made_of(piece, ranks) for piece in ranks if len(piece) > 1]
    return [" ".join(map(letters, pair)) for pair in pairs if len(pair) == 2]


def _made_of(piece: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """What lower ranks join the bytes of `piece` to."""
    parts, limit = [piece[i : i + 1] for i in range(len(piece))], ranks[piece]
    while len(parts) > 1:
        joined = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        lowest = min(joined)
        if lowest >= limit:
            break
        at = joined.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
