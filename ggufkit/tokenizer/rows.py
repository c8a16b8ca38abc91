"""The rows of a vocabulary as llama.cpp wants them: each with a text of its own.

Knows what llama.cpp's loader and tokenizer die of. Does not know where tokens come from.
"""

from collections.abc import Iterable
from pathlib import Path

from gguf import Keys, TokenType

from ggufkit.errors import TokenizerError
from ggufkit.formats.model import KV


def filled(texts: Iterable[str | None]) -> list[str]:
    """The texts with [PADi] in every row i that has none; where a token is called so, with dashes behind it."""
    out = list(texts)
    taken = set(out)
    for i, text in enumerate(out):
        if text is None:
            filler = f"[PAD{i}]"
            while filler in taken:
                filler += "-"
            out[i] = filler
    return [text for text in out if text is not None]


def check_tokens(entries: Iterable[KV], folder: Path) -> None:
    """Raises TokenizerError for what ends llama.cpp: a text twice, or a byte that no token stands for."""
    found = {kv.key: kv.value for kv in entries}
    texts: list[str] = found[Keys.Tokenizer.LIST]
    number: dict[str, int] = {}
    for i, text in enumerate(texts):
        if text and number.setdefault(text, i) != i:
            raise TokenizerError(
                f"{folder}: token {text!r:.80} is number {number[text]} and number {i}; llama.cpp takes a text once. "
                "Remove one of them from the tokenizer's files, or rename it."
            )
    if found[Keys.Tokenizer.MODEL] != "llama":
        return
    lacking = [byte for byte in range(256) if f"<0x{byte:02X}>" not in number and not _stands_for(byte, number)]
    if lacking and int(TokenType.BYTE) not in found[Keys.Tokenizer.TOKEN_TYPE]:
        raise TokenizerError(
            f"{folder}: the vocabulary has no tokens for bytes, <0x00> to <0xFF>, without which llama.cpp cannot write "
            "text that the other tokens do not spell. It cannot be stored in GGUF."
        )
    if lacking:
        raise TokenizerError(
            f"{folder}: the vocabulary lacks <0x{lacking[0]:02X}>, the token of a byte; {len(lacking)} of 256 are "
            "absent. Fetch the tokenizer's files again."
        )


def _stands_for(byte: int, number: dict[str, int]) -> bool:
    """llama.cpp takes the character itself where there is no such token; only ASCII is one byte of UTF-8."""
    return byte < 0x80 and chr(byte) in number
