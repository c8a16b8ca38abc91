"""Byte-level BPE that comes as vocab.json and merges.txt: the tokenizer.json that its class would make of them.

These files hold no rule for cutting text: the class that reads them does. Knows those classes (transformers 5.24,
tokenization_qwen2.py and its kin). Does not know GGUF.
"""

from typing import Any

from ggufkit.errors import TokenizerError
from ggufkit.tokenizer.files import TokenizerFiles, is_int
from ggufkit.tokenizer.pretokenizer import QWEN2, QWEN35
from ggufkit.tokenizer.special import TOKEN_TYPES, role_texts, text_of
from ggufkit.tokenizer.spm import declared_tokens

VOCAB, MERGES = "vocab.json", "merges.txt"
_END = "<|endoftext|>"
_WORDS = {"type": "ByteLevel", "use_regex": True}
_ENDS = {"bos": _END, "eos": _END, "unk": _END}


def _split(pattern: str) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [step, {"type": "ByteLevel", "use_regex": False}]}


_NFC = {"type": "NFC"}
_QWEN_ROLES = {"eos": _END, "unk": _END, "pad": _END}
# class → (normalizer, pre-tokenizer, roles of which tokenizer_config.json need not speak)
CLASSES: dict[str, tuple[dict[str, Any] | None, dict[str, Any], dict[str, str]]] = {
    "Qwen2Tokenizer": (_NFC, _split(QWEN2), _QWEN_ROLES),
    "Qwen3_5Tokenizer": (_NFC, _split(QWEN35), _QWEN_ROLES),
    "GPT2Tokenizer": (None, _WORDS, _ENDS),
    "CodeGenTokenizer": (None, _WORDS, _ENDS),
    "GPTNeoXTokenizer": (_NFC, _WORDS, _ENDS | {"pad": "<|padding|>"}),
}
_OF_MODEL = {"phi": "GPT2Tokenizer", "starcoder2": "GPT2Tokenizer", "olmo": "GPTNeoXTokenizer"} | {
    "olmoe": "GPTNeoXTokenizer"
}
# These call their tokenizer GPT-2's, and their own tokenizer.json cuts text otherwise. transformers refuses the first.
_UNLIKE_GPT2 = ("phi3", "phimoe")
_DIGIT_BY_DIGIT = ("starcoder2", "granite", "granitemoe", "granitemoeshared", "granitemoehybrid")


def has_files(files: TokenizerFiles) -> bool:
    return files.exists(VOCAB) and files.exists(MERGES)


def assembled(files: TokenizerFiles) -> dict[str, Any]:
    """What tokenizer.json would hold, without the merges. Raises TokenizerError where no class says how to cut text."""
    normalizer, pre_tokenizer, roles = CLASSES[_class(files)]
    prefix = bool(files.read_object("tokenizer_config.json").get("add_prefix_space"))
    vocab = files.read_object(VOCAB)
    if VOCAB in files.faults:
        raise files.faults[VOCAB]
    return {
        "model": {"type": "BPE", "vocab": vocab},
        "normalizer": normalizer,
        "pre_tokenizer": _with_prefix(pre_tokenizer, prefix),
        "added_tokens": _added(files, vocab, roles),
    }


def _with_prefix(step: dict[str, Any], prefix: bool) -> dict[str, Any]:
    if "pretokenizers" in step:
        return step | {"pretokenizers": [_with_prefix(each, prefix) for each in step["pretokenizers"]]}
    return step | {"add_prefix_space": prefix} if step["type"] == "ByteLevel" else step


def _class(files: TokenizerFiles) -> str:
    """The class of tokenizer_config.json, or that of the model. Raises TokenizerError."""
    declared = str(files.read_object("tokenizer_config.json").get("tokenizer_class") or "").removesuffix("Fast")
    model = str(files.read_object("config.json").get("model_type")).removesuffix("_text")
    if model.startswith(("qwen3_5", "qwen4")):
        declared = "Qwen3_5Tokenizer"
    elif declared not in CLASSES or model in _UNLIKE_GPT2:
        of_model = "Qwen2Tokenizer" if model.startswith(("qwen2", "qwen3")) else _OF_MODEL.get(model)
        if of_model is None or (declared not in CLASSES and declared not in ("", "PreTrainedTokenizer")):
            raise TokenizerError(
                f"{files.folder}: {VOCAB} and {MERGES} do not say how text is cut before the merges, and neither does "
                f"the tokenizer's class ({declared or 'none'}) of a {model} model. Fetch tokenizer.json from the "
                f"model's page. Without it, known are {', '.join(CLASSES)}."
            )
        declared = of_model
    if model in _DIGIT_BY_DIGIT and declared == "GPT2Tokenizer":
        files.notes.append(
            f"{VOCAB} and {MERGES} cut numbers as GPT-2 does; the published tokenizer.json of {model} models cuts them "
            "digit by digit. Fetch it, if this model was trained with it."
        )
    return declared


def _added(files: TokenizerFiles, vocab: dict[str, Any], roles: dict[str, str]) -> list[dict[str, Any]]:
    """Tokens that are cut out of the text first. Those without a number get the next ones, as transformers does."""
    config = files.read_object("tokenizer_config.json")
    named = {kind: text for kind, text in roles.items() if f"{kind}_token" not in config} | role_texts(config)
    texts = [named[kind] for kind in TOKEN_TYPES if kind in named]
    more = [files.read_object(name).get(key) for name in ("tokenizer_config.json", "special_tokens_map.json")
            for key in ("additional_special_tokens", "extra_special_tokens")]  # fmt: skip
    extra = [text for listed in more if isinstance(listed, list) for text in map(text_of, listed) if text]
    out = {token.text: _entry(token.number, token.text, token.special, token.normalized)
           for token in declared_tokens(files)}  # fmt: skip
    for text, number in files.read_object("added_tokens.json").items():
        if is_int(number) and number >= 0:
            special = text in texts or text in extra
            out.setdefault(text, _entry(number, text, special, normalized=not special))
        else:
            files.note(f"added_tokens.json: {text!r:.80} has number {number!r:.80}, wanted one from 0")
    numbers = [number for number in vocab.values() if is_int(number)] + [entry["id"] for entry in out.values()]
    free = max(numbers, default=-1) + 1
    for text in dict.fromkeys((*texts, *extra)):
        if text not in out:
            number = vocab.get(text, free)
            out[text] = _entry(number, text, special=True, normalized=False)
            free += number == free
    return list(out.values())


def _entry(number: int, text: str, special: bool, normalized: bool) -> dict[str, Any]:
    return {"id": number, "content": text, "special": special, "normalized": normalized}
