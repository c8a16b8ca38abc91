"""Gemma 4's vocabulary: BPE over characters with byte fallback, merged by its own ranks instead of by scores.

Knows token types and merges. Does not know special ids or templates.
"""

from gguf import GGUFValueType, Keys, TokenType

from ggufkit.errors import TokenizerError
from ggufkit.formats.model import KV
from ggufkit.tokenizer.bpe import added_tokens, merge_pairs, vocabulary
from ggufkit.tokenizer.files import TokenizerFiles
from ggufkit.tokenizer.llama_hf import special_texts, type_of
from ggufkit.tokenizer.special import text_of
from ggufkit.tokenizer.spm import ADDED_SCORE, Pieces

# what frames thoughts and calls of tools: shown, so that whoever reads an answer can take it apart
VISIBLE = frozenset(
    {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'}
)


def from_tokenizer_json(files: TokenizerFiles, n_vocab: int) -> tuple[KV, ...]:
    """Vocabulary of Gemma 4's tokenizer.json, padded to `n_vocab` rows. No score means anything.

    Raises TokenizerError on malformed files or a vocabulary with more tokens than rows.
    """
    tokenizer = files.read_object("tokenizer.json")
    vocab = vocabulary(tokenizer, n_vocab)
    merges = [" ".join(pair) for pair in merge_pairs(tokenizer, vocab)]
    if not merges:
        raise TokenizerError(f"{files.folder}: the BPE vocabulary has no merges. Fetch tokenizer.json again.")
    # every …_token of tokenizer_config.json names one: sot_token begins a turn
    roles = (
        text_of(value) for key, value in files.read_object("tokenizer_config.json").items() if key[-6:] == "_token"
    )
    special = special_texts(files) | {text for text in roles if text is not None}
    pieces = Pieces(n_vocab)
    added = {
        token.text: token.number for token in added_tokens(files, tokenizer, vocab, n_vocab) if token.text not in vocab
    }
    for text, number in (vocab | added).items():
        kind = TokenType.CONTROL if text in special else TokenType.NORMAL
        if text in VISIBLE or (text in added and text not in special):
            kind = TokenType.USER_DEFINED
        pieces.put(number, text, ADDED_SCORE, type_of(text, kind))
    return (
        KV(Keys.Tokenizer.MODEL, GGUFValueType.STRING, "gemma4"),
        *(kv for kv in pieces.metadata() if kv.key not in (Keys.Tokenizer.MODEL, Keys.Tokenizer.PRE)),
        KV(Keys.Tokenizer.MERGES, GGUFValueType.ARRAY, merges, GGUFValueType.STRING),
    )
