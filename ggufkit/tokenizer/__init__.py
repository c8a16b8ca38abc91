"""Hugging Face tokenizer files → GGUF vocabulary, without transformers.

Knows which kinds of vocabulary there are and in which order they are tried. Does not know model families: a family
says which kinds it may have.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from gguf import GGUFValueType, Keys

from ggufkit.errors import TokenizerError
from ggufkit.formats.model import KV
from ggufkit.tokenizer import bpe, gemma4, gpt2_files, kimi, llama_hf, mistral, spm
from ggufkit.tokenizer.files import MAX_VOCAB, MalformedError, TokenizerFiles
from ggufkit.tokenizer.rows import check_tokens
from ggufkit.tokenizer.sentencepiece_model import SentencePieceModel
from ggufkit.tokenizer.special import special_tokens


class VocabKind(StrEnum):
    """Kinds of vocabulary. SPM: tokenizer.model. LLAMA_HF: the same as tokenizer.json. BPE: byte-level.

    MISTRAL: Mistral's own tekken.json, or tokenizer.model.v3 and the like.
    GEMMA4: as LLAMA_HF, but llama.cpp merges by rank. KIMI: tiktoken.model.
    """

    SPM = "spm"
    SPM_PHI3 = "spm-phi3"
    LLAMA_HF = "llama-hf"
    GEMMA4 = "gemma4"
    BPE = "bpe"
    MISTRAL = "mistral"
    KIMI = "kimi"


def load_vocabulary(
    folder: Path,
    n_vocab: int,
    kinds: tuple[VocabKind, ...],
    *,
    pre_alias: Mapping[str, str] | None = None,
    notes: list[str] | None = None,
    config_folder: Path | None = None,
) -> tuple[KV, ...]:
    """Metadata of the vocabulary in `folder`: tokens, scores, types, merges, special ids, templates.

    n_vocab    rows of the embedding; missing tokens are padded as [PADi]
    kinds      tried in order; the first whose files are there and can be used is taken
    pre_alias  see `bpe.from_tokenizer_json`
    notes      gets a line for each file and entry that the vocabulary does without
    config_folder  where config.json lies, if not in `folder`

    Raises TokenizerError where no kind's files can be used, and where llama.cpp would not take the vocabulary.
    """
    if not 0 < n_vocab <= MAX_VOCAB:
        raise TokenizerError(f"{folder}: a vocabulary of {n_vocab} tokens, at most {MAX_VOCAB} are supported.")
    files = TokenizerFiles(folder, notes, config_folder)
    kind, model = _choose(files, n_vocab, kinds)
    try:
        entries = _entries(files, n_vocab, kind, model, pre_alias)
    except MalformedError as error:
        if model is None or not files.read_object("tokenizer.json"):
            raise
        files.leave_out("tokenizer.json", error)  # the vocabulary is tokenizer.model's
        entries = _entries(files, n_vocab, kind, model, pre_alias)
    if files.without_row:
        text, number = next(iter(files.without_row.items()))
        more = f", nor have {len(files.without_row) - 1} more" if len(files.without_row) > 1 else ""
        files.note(f"added token {text!r:.80} has number {number}, and no row: the model has {n_vocab}{more}")
    for kv in entries:
        _check_unicode(kv, folder)
    check_tokens(entries, folder)
    return entries


def _entries(
    files: TokenizerFiles,
    n_vocab: int,
    kind: VocabKind,
    model: SentencePieceModel | None,
    pre_alias: Mapping[str, str] | None,
) -> tuple[KV, ...]:
    if kind is VocabKind.MISTRAL:
        return mistral.from_files(files, n_vocab)
    by_text = False
    if model is not None:
        tokens = spm.from_model(files, model, n_vocab, phi3=kind is VocabKind.SPM_PHI3)
    elif kind is VocabKind.LLAMA_HF:
        tokens = llama_hf.from_tokenizer_json(files, n_vocab)
    elif kind is VocabKind.GEMMA4:
        tokens = gemma4.from_tokenizer_json(files, n_vocab)
    elif kind is VocabKind.KIMI:
        tokens = kimi.from_tiktoken(files, n_vocab)
    else:
        without = None if files.read_object("tokenizer.json") else gpt2_files.assembled(files)
        by_text = without is not None
        tokens = bpe.from_tokenizer_json(files, n_vocab, tokenizer=without, pre_alias=dict(pre_alias or {}))
    texts = next(kv.value for kv in tokens if kv.key == Keys.Tokenizer.LIST)
    return (*tokens, *special_tokens(files, texts, by_text=by_text))


def _check_unicode(kv: KV, folder: Path) -> None:
    """JSON can spell half a UTF-16 pair, which no UTF-8 file can hold."""
    text = "".join(kv.value) if kv.item_type is GGUFValueType.STRING else kv.value
    try:
        if isinstance(text, str):
            text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise TokenizerError(f"{folder}: {kv.key} holds {half}, half a character. Fetch the file again.") from error


def _choose(
    files: TokenizerFiles, n_vocab: int, kinds: tuple[VocabKind, ...]
) -> tuple[VocabKind, SentencePieceModel | None]:
    """The kind to read, with the model where that is tokenizer.model: by what the files are, not by their names."""
    tokenizer = files.read_object("tokenizer.json")
    for kind in kinds:
        if kind is VocabKind.SPM_PHI3 and _is_gpt2(files):
            continue
        if kind in (VocabKind.SPM, VocabKind.SPM_PHI3) and files.exists(spm.MODEL):
            try:
                return kind, spm.read_model(files, n_vocab)
            except TokenizerError as error:
                files.leave_out(spm.MODEL, error)
        if kind in (VocabKind.LLAMA_HF, VocabKind.GEMMA4) and spm.is_llama_bpe(tokenizer):
            return kind, None
        if kind is VocabKind.BPE and (tokenizer or gpt2_files.has_files(files)):
            return kind, None
        if kind is VocabKind.KIMI and files.exists(kimi.FILE):
            return kind, None
        if kind is VocabKind.MISTRAL and mistral.has_files(files):
            return kind, None
    for name in ("tokenizer.json", spm.MODEL):
        if name in files.faults:
            raise files.faults[name]
    wanted = spm.MODEL if VocabKind.BPE not in kinds else f"tokenizer.json or {spm.MODEL}"
    for there, absent in ((gpt2_files.VOCAB, gpt2_files.MERGES), (gpt2_files.MERGES, gpt2_files.VOCAB)):
        if files.exists(there) and not files.exists(absent):
            raise TokenizerError(f"{files.folder}: {there} is of no use without {absent}. Fetch it, or tokenizer.json.")
    raise TokenizerError(
        f"{files.folder}: no tokenizer found, wanted {wanted}. Fetch the missing file from the model's page."
    )


def _is_gpt2(files: TokenizerFiles) -> bool:
    return files.read_object("tokenizer_config.json").get("tokenizer_class") == "GPT2Tokenizer"
