"""Hugging Face tokenizer files → GGUF vocabulary, without transformers.

Knows which kinds of vocabulary there are and in which order they are tried. Does not know model families: a family
says which kinds it may have.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from gguf import GGUFValueType

from ggufkit.errors import TokenizerError
from ggufkit.formats.model import KV
from ggufkit.tokenizer import bpe, llama_hf, spm
from ggufkit.tokenizer.files import MAX_VOCAB, TokenizerFiles
from ggufkit.tokenizer.special import special_tokens


class VocabKind(StrEnum):
    """Kinds of vocabulary. SPM: tokenizer.model. LLAMA_HF: the same as tokenizer.json. BPE: byte-level."""

    SPM = "spm"
    SPM_PHI3 = "spm-phi3"
    LLAMA_HF = "llama-hf"
    BPE = "bpe"


def load_vocabulary(
    folder: Path, n_vocab: int, kinds: tuple[VocabKind, ...], *, pre_alias: Mapping[str, str] | None = None
) -> tuple[KV, ...]:
    """Metadata of the vocabulary in `folder`: tokens, scores, types, merges, special ids, templates.

    n_vocab    rows of the embedding; missing tokens are padded as [PADi]
    kinds      tried in order; the first whose files are there is taken
    pre_alias  see `bpe.from_tokenizer_json`

    Raises TokenizerError where no kind's files are there or a file is malformed.
    """
    if not 0 < n_vocab <= MAX_VOCAB:
        raise TokenizerError(f"{folder}: a vocabulary of {n_vocab} tokens, at most {MAX_VOCAB} are supported.")
    files = TokenizerFiles(folder)
    kind = _kind(files, kinds)
    if kind is VocabKind.BPE:
        tokens = bpe.from_tokenizer_json(files, n_vocab, pre_alias=dict(pre_alias or {}))
    elif kind is VocabKind.LLAMA_HF:
        tokens = llama_hf.from_tokenizer_json(files, n_vocab)
    else:
        tokens = spm.from_model(files, n_vocab, phi3=kind is VocabKind.SPM_PHI3)
    entries = (*tokens, *special_tokens(files, n_vocab))
    for kv in entries:
        _check_unicode(kv, folder)
    return entries


def _check_unicode(kv: KV, folder: Path) -> None:
    """JSON can spell half a UTF-16 pair, which no UTF-8 file can hold."""
    text = "".join(kv.value) if kv.item_type is GGUFValueType.STRING else kv.value
    try:
        if isinstance(text, str):
            text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise TokenizerError(f"{folder}: {kv.key} holds {half}, half a character. Fetch the file again.") from error


def _kind(files: TokenizerFiles, kinds: tuple[VocabKind, ...]) -> VocabKind:
    tokenizer = files.read_object("tokenizer.json")
    for kind in kinds:
        if kind is VocabKind.SPM_PHI3 and _is_gpt2(files):
            continue
        if kind in (VocabKind.SPM, VocabKind.SPM_PHI3) and files.exists("tokenizer.model"):
            return kind
        if kind is VocabKind.LLAMA_HF and spm.is_llama_bpe(tokenizer):
            return kind
        if kind is VocabKind.BPE and tokenizer:
            return kind
    wanted = "tokenizer.model" if VocabKind.BPE not in kinds else "tokenizer.json or tokenizer.model"
    hint = "tekken.json alone is not supported; f" if files.exists("tekken.json") else "F"
    raise TokenizerError(
        f"{files.folder}: no tokenizer found, wanted {wanted}. {hint}etch the missing file from the model's page."
    )


def _is_gpt2(files: TokenizerFiles) -> bool:
    return files.read_object("tokenizer_config.json").get("tokenizer_class") == "GPT2Tokenizer"
