"""Mistral's own tokenizers: tekken.json (byte-level BPE, ranks instead of merges) and tokenizer.model.v3 and the like.

Knows their files and how conversations are written for them, version by version. What mistral-common does with them
is the reference. Does not know families.
"""

import base64
import binascii
from typing import Any

from gguf import GGUFValueType, Keys, TokenType

from ggufkit.errors import TokenizerError
from ggufkit.formats.model import KV
from ggufkit.tokenizer.bpe import letters
from ggufkit.tokenizer.files import TokenizerFiles, expect, is_int
from ggufkit.tokenizer.pretokenizer import TEKKEN
from ggufkit.tokenizer.rows import filled
from ggufkit.tokenizer.spm import from_model, read_model
from ggufkit.tokenizer.templates import chat_templates

FILE = "tekken.json"
_VERSIONED = "tokenizer.model.v"
# of files that do not list their own (up to v7)
_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
_ROLES = (
    ("<s>", Keys.Tokenizer.BOS_ID),
    ("</s>", Keys.Tokenizer.EOS_ID),
    ("<unk>", Keys.Tokenizer.UNK_ID),
    ("<pad>", Keys.Tokenizer.PAD_ID),
)


def _turns(user: str, more: str = "") -> str:
    """A chat template; `more` are further branches for the role of a message `m`."""
    return (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]" + user + "[/INST]"
        "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}" + more + "{% endif %}{% endfor %}"
    )


# before v7 the system's words stand before the last question
_INSIDE = "{% set first = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}" + _turns(
    "{{ (first if loop.last else '') + m.content }}"
)
_APART = _turns("{{ m.content }}", "{% elif m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]")
_TEMPLATES = {"v2": _INSIDE, "v3": _INSIDE, "v7": _APART, "v11": _APART, "v13": _APART}


def versioned_model(files: TokenizerFiles) -> str | None:
    """The folder's tokenizer.model.v3 or the like, the newest where there are several."""
    names = sorted(path.name for path in files.folder.glob(f"{_VERSIONED}[0-9]*"))
    return names[-1] if names else None


def has_files(files: TokenizerFiles) -> bool:
    return files.exists(FILE) or versioned_model(files) is not None


def from_files(files: TokenizerFiles, n_vocab: int) -> tuple[KV, ...]:
    """The whole vocabulary, with special ids and a chat template. Raises TokenizerError."""
    if files.exists(FILE):
        entries, version = _tekken(files, n_vocab)
    else:
        name = versioned_model(files)
        assert name is not None
        found = from_model(files, read_model(files, n_vocab, name), n_vocab)
        entries = tuple(kv for kv in found if kv.key != Keys.Tokenizer.PRE)
        version = name.removeprefix(_VERSIONED[:-1]).partition("m")[0]
    texts = next(kv.value for kv in entries if kv.key == Keys.Tokenizer.LIST)
    ids = {key: texts.index(text) for text, key in _ROLES if text in texts}
    ids.setdefault(Keys.Tokenizer.PAD_ID, ids.get(Keys.Tokenizer.EOS_ID, 2))
    template = chat_templates(files)
    if not template and version in _TEMPLATES:
        template = (KV(Keys.Tokenizer.CHAT_TEMPLATE, GGUFValueType.STRING, _TEMPLATES[version]),)
    if not template:
        files.notes.append(f"no chat template: the folder has none, and how {version} writes turns is not known")
    return (
        *entries,
        *(KV(key, GGUFValueType.UINT32, number) for key, number in ids.items()),
        KV(Keys.Tokenizer.ADD_BOS, GGUFValueType.BOOL, True),
        KV(Keys.Tokenizer.ADD_EOS, GGUFValueType.BOOL, False),
        *template,
    )


def _tekken(files: TokenizerFiles, n_vocab: int) -> tuple[tuple[KV, ...], str]:
    """Special tokens first, then the pieces by rank; and the file's version."""
    content = files.read_object(FILE)
    if FILE in files.faults:
        raise files.faults[FILE]
    config = expect(content.get("config"), dict, f"{FILE}: config")
    if config.get("pattern") != TEKKEN:
        raise TokenizerError(f"{FILE}: text is cut by {config.get('pattern')!r:.100}, which llama.cpp does not know.")
    size, n_special = (expect(config.get(k), int, f"{FILE}: {k}") for k in ("default_vocab_size", _N_SPECIAL))
    if not 0 <= n_special < size <= n_vocab:
        raise TokenizerError(
            f"{FILE}: {size} tokens, {n_special} of them special; the model has {n_vocab} rows of embeddings. "
            "Tokenizer and weights do not belong together."
        )
    special = _special(content, n_special)
    pieces = _pieces(content, size - n_special)
    texts: list[str | None] = [*special, *map(letters, pieces), *[None] * (n_vocab - size)]
    types = [TokenType.CONTROL] * n_special + [TokenType.NORMAL] * len(pieces)
    types += [TokenType.UNUSED] * (n_vocab - size)
    string, array = GGUFValueType.STRING, GGUFValueType.ARRAY
    entries = (
        KV(Keys.Tokenizer.MODEL, string, "gpt2"),
        KV(Keys.Tokenizer.PRE, string, "tekken"),
        KV(Keys.Tokenizer.LIST, array, filled(texts), string),
        KV(Keys.Tokenizer.SCORES, array, [0.0] * n_vocab, GGUFValueType.FLOAT32),
        KV(Keys.Tokenizer.TOKEN_TYPE, array, [int(kind) for kind in types], GGUFValueType.INT32),
        KV(Keys.Tokenizer.MERGES, array, merges(pieces), string),
    )
    return entries, str(config.get("version"))


_N_SPECIAL = "default_num_special_tokens"


def _special(content: dict[str, Any], n_special: int) -> list[str]:
    """Texts of the special tokens by number; those that the file does not name are <SPECIAL_i>."""
    listed = content.get("special_tokens")
    if listed is None:
        found = dict(enumerate(_SPECIAL))
    else:
        where = f"{FILE}: special_tokens"
        entries = [expect(each, dict, where) for each in expect(listed, list, where)]
        found = {expect(each.get("rank"), int, where): expect(each.get("token_str"), str, where) for each in entries}
    if found and not 0 <= min(found) <= max(found) < n_special:
        raise TokenizerError(f"{FILE}: special token {max(found)} of {n_special}. Fetch the file again.")
    return [found.get(i, f"<SPECIAL_{i}>") for i in range(n_special)]


def _pieces(content: dict[str, Any], count: int) -> list[bytes]:
    """Bytes of the first `count` tokens by rank. Raises TokenizerError where a rank or a single byte is absent."""
    listed = expect(content.get("vocab"), list, f"{FILE}: vocab")[:count]
    out = []
    for rank, entry in enumerate(listed):
        stated = entry.get("rank") if isinstance(entry, dict) else None
        try:
            piece = base64.b64decode(entry["token_bytes"], validate=True)
        except (TypeError, KeyError, ValueError, binascii.Error):
            piece = b""
        if stated != rank or not is_int(stated) or not piece:
            raise TokenizerError(f"{FILE}: token {rank} is {entry!r:.80}, wanted its rank and bytes. Fetch it again.")
        out.append(piece)
    if len(out) < count or len(set(out)) < count or {bytes([i]) for i in range(256)} - set(out[:256]):
        raise TokenizerError(
            f"{FILE}: {len(set(out))} of {count} tokens, every byte first, were wanted. Fetch it again."
        )
    return out


def merges(pieces: list[bytes]) -> list[str]:
    """Pairs in the order in which llama.cpp joins them: for each piece by rank, every pair of pieces that make it."""
    rank = {piece: number for number, piece in enumerate(pieces)}
    out = []
    for piece in pieces[256:]:
        halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        cuts = [(rank[left], rank[right]) for left, right in halves if left in rank and right in rank]
        if not cuts:
            raise TokenizerError(f"{FILE}: no two tokens make {piece!r:.60}. Fetch it again.")
        out += [f"{letters(pieces[left])} {letters(pieces[right])}" for left, right in sorted(cuts)]
    return out
