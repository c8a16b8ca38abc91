"""SentencePiece vocabularies that come as tokenizer.json only: BPE over characters with byte fallback (TinyLlama).

Knows how to turn merges into scores. Does not know special ids or templates.
"""

import re
from typing import Any

from gguf import TokenType

from ggufkit.formats.model import KV
from ggufkit.tokenizer.bpe import added_tokens, merge_pairs, ordinary, vocabulary
from ggufkit.tokenizer.files import TokenizerFiles
from ggufkit.tokenizer.special import quiet_roles, role_texts, text_of
from ggufkit.tokenizer.spm import ADDED_SCORE, Pieces

_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def from_tokenizer_json(files: TokenizerFiles, n_vocab: int) -> tuple[KV, ...]:
    """Vocabulary of a byte-fallback BPE in tokenizer.json, padded to `n_vocab` rows.

    The score of a token is minus the rank of the first merge that makes it: llama.cpp joins the pair of highest score
    first, `tokenizers` the pair of lowest rank, so both cut a text alike. (The converter stores -1000 for every token,
    with which llama.cpp joins from the left whatever the merges say.)

    Raises TokenizerError on malformed files or a vocabulary with more tokens than rows.
    """
    tokenizer = files.read_object("tokenizer.json")
    vocab = vocabulary(tokenizer, n_vocab)
    ranks: dict[str, int] = {}
    pairs = merge_pairs(tokenizer, vocab)
    for rank, (left, right) in enumerate(pairs):
        ranks.setdefault(left + right, rank)
    special = special_texts(files) - ordinary(quiet_roles(files), vocab, pairs)
    pieces = Pieces(n_vocab)
    for text, number in vocab.items():
        kind = TokenType.CONTROL if text in special else TokenType.NORMAL
        pieces.put(number, text, float(-ranks.get(text, len(ranks))), type_of(text, kind))
    for token in added_tokens(files, tokenizer, vocab, n_vocab):
        if token.text not in vocab:
            kind = TokenType.CONTROL if token.text in special else TokenType.USER_DEFINED
            pieces.put(token.number, token.text, ADDED_SCORE, kind)
    return pieces.metadata()


def type_of(text: str, otherwise: TokenType) -> TokenType:
    """BYTE for a byte's token, the other type for others."""
    return TokenType.BYTE if _BYTE_PIECE.fullmatch(text) else otherwise


def special_texts(files: TokenizerFiles) -> set[str]:
    """Tokens that tokenizer_config.json or special_tokens_map.json give a role."""
    out: set[str] = set()
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        entries = files.read_object(name)
        out |= set(role_texts(entries).values())
        for key in ("additional_special_tokens", "extra_special_tokens"):
            more: Any = entries.get(key)
            listed = more.values() if isinstance(more, dict) else more if isinstance(more, list) else ()
            out |= {text for text in map(text_of, listed) if text is not None}
    return out
