"""Special token ids, the add_bos / add_eos / add_sep flags and chat templates, as GGUF metadata.

Knows tokenizer.json's post-processors, tokenizer_config.json, config.json and the template files. Does not know token
lists. The order of the entries and every rule follow gguf-py's SpecialVocab as of llama.cpp 0c1e57098, which differs
from the released gguf 0.19 (a ByteLevel post-processor switches BOS and EOS off).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gguf import GGUFValueType, Keys

from ggufkit.errors import TokenizerError
from ggufkit.formats.model import KV
from ggufkit.tokenizer.files import TokenizerFiles, expect, is_int
from ggufkit.tokenizer.templates import chat_templates

TOKEN_TYPES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ID_KEYS = {
    "bos": Keys.Tokenizer.BOS_ID,
    "eos": Keys.Tokenizer.EOS_ID,
    "unk": Keys.Tokenizer.UNK_ID,
    "sep": Keys.Tokenizer.SEP_ID,
    "pad": Keys.Tokenizer.PAD_ID,
    "mask": Keys.Tokenizer.MASK_ID,
    "eot": Keys.Tokenizer.EOT_ID,
    "eom": Keys.Tokenizer.EOM_ID,
}
_ADD_KEYS = {"bos": Keys.Tokenizer.ADD_BOS, "eos": Keys.Tokenizer.ADD_EOS, "sep": Keys.Tokenizer.ADD_SEP}


@dataclass(slots=True)
class _Specials:
    types: tuple[str, ...] = TOKEN_TYPES
    texts: dict[str, Any] = field(default_factory=dict)  # tokenizer_config.json, "bos_token" and the like overridden
    add: dict[str, bool] = field(default_factory=dict)


def special_tokens(files: TokenizerFiles, texts: list[str], *, by_text: bool = False) -> tuple[KV, ...]:
    """Ids, flags and templates that the files declare. An id without a row is left out.

    texts    of all rows: where config.json gives a number that is not a row (-1), they have that of the declared token
    by_text  a BOS and EOS that no file numbers have the number of their text; without one llama.cpp takes 11

    Raises MalformedError on a malformed tokenizer.json.
    """
    n_vocab, tokenizer = len(texts), files.read_object("tokenizer.json")
    specials = _Specials(texts=dict(files.read_object("tokenizer_config.json")))
    declared = bool(specials.texts)
    if tokenizer:
        _read_post_processor(tokenizer, specials, declared)
    ids: dict[str, int] = {}
    if declared:
        _read_config_flags(specials)
        _collect_ids(ids, specials, _added_ids(tokenizer))
    _collect_config_ids(ids, specials.types, files.read_object("config.json"))
    for kind in [kind for kind, number in ids.items() if not 0 <= number < n_vocab]:
        if (number := ids.pop(kind)) > 0:
            files.note(f"the {kind} token has number {number}, the model has {n_vocab} rows of embeddings")
        text = text_of(specials.texts.get(f"{kind}_token"))
        if text in texts:
            ids[kind] = texts.index(text)
    if by_text:
        for kind, text in role_texts(specials.texts).items():
            if kind in ("bos", "eos") and kind not in ids and text in texts:
                ids[kind] = texts.index(text)
    out = [KV(_ID_KEYS[kind], GGUFValueType.UINT32, number) for kind, number in ids.items() if kind in _ID_KEYS]
    out += [KV(_ADD_KEYS[kind], GGUFValueType.BOOL, flag) for kind, flag in specials.add.items() if kind in _ADD_KEYS]
    return (*out, *chat_templates(files))


def text_of(entry: Any) -> str | None:
    """A token as the files spell it: its text, or an object that holds it."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None


def role_texts(entries: dict[str, Any]) -> dict[str, str]:
    """Role → text of the tokens to which tokenizer_config.json or special_tokens_map.json gives one."""
    found = {kind: text_of(entries.get(f"{kind}_token")) for kind in TOKEN_TYPES}
    return {kind: text for kind, text in found.items() if text is not None}


def quiet_roles(files: TokenizerFiles) -> set[str]:
    """Texts that pad, mask or separate, and neither begin nor end a text: an ordinary piece may be lent for that."""
    quiet, loud = set[str](), set[str]()
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for kind, text in role_texts(files.read_object(name)).items():
            (loud if kind in ("bos", "eos") else quiet).add(text)
    return quiet - loud


def _added_ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    where = "tokenizer.json: added_tokens"
    out: dict[str, int] = {}
    for token in expect(tokenizer.get("added_tokens") or [], list, where):
        entry = expect(token, dict, where)
        number = expect(entry.get("id"), int, where)
        if number < 0:
            raise TokenizerError(f"{where}: id {number} is negative. The file is malformed.")
        out.setdefault(expect(entry.get("content"), str, where), number)
    return out


def _collect_ids(ids: dict[str, int], specials: _Specials, added: dict[str, int]) -> None:
    for kind in specials.types:
        text = text_of(specials.texts.get(f"{kind}_token"))
        if text is not None and text in added:
            ids.setdefault(kind, added[text])


def _collect_config_ids(ids: dict[str, int], kinds: Iterable[str], config: dict[str, Any]) -> None:
    """Numbers as they stand: old configs write -1 for "no such token"."""
    text = config.get("text_config")  # of a multimodal model
    inner = text if isinstance(text, dict) else {}
    for kind in kinds:
        name = f"{kind}_token_id"
        number = config[name] if config.get(name) is not None else inner.get(name)  # a list names no single one
        if is_int(number):
            ids.setdefault(kind, number)


def _read_config_flags(specials: _Specials) -> None:
    for kind in specials.types:
        flag = specials.texts.get(f"add_{kind}_token")
        if isinstance(flag, bool):
            specials.add.setdefault(kind, flag)


def _read_post_processor(tokenizer: dict[str, Any], specials: _Specials, declared: bool) -> None:
    """What is put around a text, read from the post-processor; it wins over tokenizer_config.json."""
    texts = specials.texts
    if declared:
        for name, stand_in in (("bos", "cls"), ("eos", "sep")):
            if not texts.get(f"{name}_token") and texts.get(f"{stand_in}_token"):
                texts[f"{name}_token"] = texts[f"{stand_in}_token"]
    post = tokenizer.get("post_processor")
    if not post:
        return
    where = "tokenizer.json: post_processor"
    for processor in expect(expect(post, dict, where).get("processors", [post]), list, where):
        kind = expect(processor, dict, where).get("type")
        if kind == "ByteLevel":
            specials.add.setdefault("bos", False)
            specials.add.setdefault("eos", False)
        elif kind == "RobertaProcessing":
            specials.add.update(bos=True, eos=True, sep=True)
            _stand_in_from_roberta(processor, specials, declared)
        elif kind == "TemplateProcessing":
            _read_template(processor, specials, declared)


def _read_template(processor: dict[str, Any], specials: _Specials, declared: bool) -> None:
    """`<s> A </s>` and `<s> A <s> B`: only leading, trailing and middle tokens of simple templates are understood."""
    texts, where = specials.texts, "tokenizer.json: TemplateProcessing"
    single = expect(processor.get("single", []), list, where)
    pair = expect(processor.get("pair", []), list, where)
    first = last = None
    if len(single) > 1:
        if first := _special(single[0]):
            _declare_bos(texts, first, declared)
            specials.add["bos"] = first in (texts.get("bos_token"), texts.get("cls_token"))
        if last := _special(single[-1]):
            if declared and last != texts.get("eos_token"):
                _replace_eos(specials, last)
            texts["eos_token"] = last
            specials.add["eos"] = True
    start = 1 if first and pair and _special(pair[0]) == first else 0
    stop = len(pair) - (1 if last and pair and _special(pair[-1]) == last else 0)
    _read_separator(pair[start:stop], specials, last is not None)


def _stand_in_from_roberta(processor: dict[str, Any], specials: _Specials, declared: bool) -> None:
    for name, stand_in in (("cls", "bos"), ("sep", "eos")):
        if declared and not specials.texts.get(f"{name}_token"):
            pair = processor.get(name) or [specials.texts.get(f"{stand_in}_token")]
            specials.texts[f"{name}_token"] = expect(pair, list, "tokenizer.json: RobertaProcessing")[0]


def _declare_bos(texts: dict[str, Any], first: str, declared: bool) -> None:
    """A declared token that is written as an object never equals the template's name: then CLS stands for BOS."""
    if not declared:
        texts["bos_token"] = first
    elif first not in (texts.get("bos_token"), texts.get("cls_token")):
        for name in ("bos_token", "cls_token"):
            texts[name] = texts.get(name) or first


def _replace_eos(specials: _Specials, last: str) -> None:
    """The template ends in another token than the declared EOS: that one becomes EOS, the declared one EOT (or EOM)."""
    for kind in ("eot", "eom"):
        if kind not in specials.types:
            specials.types = (*specials.types, kind)
            specials.texts[f"{kind}_token"] = specials.texts.get("eos_token")
            return


def _read_separator(pair: list[Any], specials: _Specials, has_last: bool) -> None:
    middle = pair[1:-1]
    if len(pair) < 3 or _sequence(pair[0]) != "A" or _sequence(pair[-1]) != "B":
        return
    ends = (specials.texts.get("sep_token"), specials.texts.get("eos_token"))
    add = bool((name := _special(middle[0])) and name in ends and not has_last)
    if len(middle) == 2 and (name := _special(middle[1])) and name in ends:
        add = True
    specials.add["sep"] = add
    if add and not specials.texts.get("sep_token"):
        specials.texts["sep_token"] = specials.texts.get("eos_token")


def _special(piece: Any) -> str | None:
    return _id_of(piece, "SpecialToken")


def _sequence(piece: Any) -> str | None:
    return _id_of(piece, "Sequence")


def _id_of(piece: Any, kind: str) -> str | None:
    where = "tokenizer.json: TemplateProcessing"
    name = expect(expect(piece, dict, where).get(kind, {}), dict, where).get("id")
    return name if isinstance(name, str) else None
