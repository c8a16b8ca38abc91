"""How a byte-level BPE cuts text before its merges, as the name that llama.cpp gives to that cut.

llama.cpp's converter tells pre-tokenizers apart by hashing the ids of a test text. Here the declaration itself is
recognized: `normalizer`, `pre_tokenizer` and `ignore_merges` of tokenizer.json, brought to one canonical form, are
looked up in a table. Every row was checked by comparing token ids of `tokenizers` and llama.cpp (tests/tokenizer).
Does not know vocabularies.
"""

from dataclasses import dataclass
from typing import Any

from ggufkit.errors import TokenizerError
from ggufkit.tokenizer.files import expect

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
_LOWER = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
_LEAD = "[^\\r\\n\\p{L}\\p{N}]?"
_SPACES = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
_PUNCTUATION = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
_PUNCTUATION_SLASH = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*"

CL100K = f"{_CONTRACTIONS}|{_LEAD}\\p{{L}}+|\\p{{N}}{{1,3}}|{_PUNCTUATION}|{_SPACES}"
QWEN2 = f"{_CONTRACTIONS}|{_LEAD}\\p{{L}}+|\\p{{N}}|{_PUNCTUATION}|{_SPACES}"
O200K = (
    f"{_LEAD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_LEAD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    f"|\\p{{N}}{{1,3}}|{_PUNCTUATION_SLASH}|{_SPACES}"
)
TEKKEN = f"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\\p{{N}}|{_PUNCTUATION_SLASH}|{_SPACES}"
QWEN35 = f"{_CONTRACTIONS}|{_LEAD}[\\p{{L}}\\p{{M}}]+|\\p{{N}}| ?[^\\s\\p{{L}}\\p{{M}}\\p{{N}}]+[\\r\\n]*|{_SPACES}"
SEED = f"{_CONTRACTIONS}|{_LEAD}\\p{{L}}+|\\p{{N}}{{1}}| ?[^\\s\\p{{L}}\\p{{N}}\\r\\n]+|{_SPACES}"
# Letters that have two cases, as DeepSeek's older tokenizers list them.
_CASED = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ"
    "-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ"
    "-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
DEEPSEEK_LLM = (
    "[\\r\\n]",
    f"\\s?[{_CASED}]+",
    "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "\\s+$",
    "[一-龥ࠀ-一가-퟿]+",
)
DEEPSEEK_V3 = (
    "\\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    f"| ?[\\p{{P}}\\p{{S}}]+[\\r\\n]*|{_SPACES}",
)


@dataclass(frozen=True, slots=True)
class Row:
    """name: llama.cpp's. steps: the canonical pre-tokenizer. ignore_merges, normalizer: None where both will do."""

    name: str
    steps: tuple[str, ...]
    ignore_merges: bool | None = None
    normalizer: str | None = None


_BYTES = "bytes"
_GPT2_WORDS = "bytes, GPT-2 words"

ROWS = (
    Row("olmo", (_GPT2_WORDS,), normalizer="NFC"),
    Row("gpt-2", (_GPT2_WORDS,), normalizer=""),
    Row("smollm", ("digits", _GPT2_WORDS)),
    Row("llama-bpe", (f"split {CL100K}", _BYTES), ignore_merges=True),
    Row("dbrx", (f"split {CL100K}", _BYTES), ignore_merges=False),
    Row("qwen2", (f"split {QWEN2}", _BYTES)),
    Row("gpt-4o", (f"split {O200K}", _BYTES)),
    Row("tekken", (f"split {TEKKEN}", _BYTES)),
    Row("qwen35", (f"split {QWEN35}", _BYTES)),
    Row("seed-coder", (f"split {SEED}", _BYTES)),
    Row("deepseek-llm", (*(f"split {pattern}" for pattern in DEEPSEEK_LLM), "digits", _BYTES)),
    Row("deepseek-v3", (*(f"split {pattern}" for pattern in DEEPSEEK_V3), _BYTES)),
)


def pretokenizer_id(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name for the pre-tokenizer that `tokenizer` (tokenizer.json) declares.

    A normalizer other than none or NFC is unknown: llama.cpp normalizes nothing. Raises TokenizerError that shows the
    declaration where no row of the table fits.
    """
    normalizer = _normalizer(tokenizer.get("normalizer"))
    steps = _steps(tokenizer.get("pre_tokenizer"))
    ignore_merges = tokenizer.get("model", {}).get("ignore_merges", False) is True
    if normalizer in ("", "NFC"):
        for row in ROWS:
            fits = row.ignore_merges in (None, ignore_merges) and row.normalizer in (None, normalizer)
            if fits and row.steps == steps:
                return row.name
    known = ", ".join(sorted(row.name for row in ROWS))
    raise TokenizerError(
        f"tokenizer.json: pre-tokenizer {' > '.join(steps) or 'none'} (normalizer {normalizer or 'none'}, "
        f"ignore_merges {str(ignore_merges).lower()}) is not known, so llama.cpp would cut text differently. "
        f"Known: {known}. Convert this model with llama.cpp's own converter and quantize the GGUF file."
    )


def _normalizer(declared: Any) -> str:
    if not isinstance(declared, dict):
        return ""
    if declared.get("type") == "Sequence":
        return "+".join(filter(None, map(_normalizer, _parts(declared, "normalizers"))))
    return str(declared.get("type"))


def _parts(declared: dict[str, Any], key: str) -> list[Any]:
    return list(expect(declared.get(key) or [], list, f"tokenizer.json: {key}"))


def _steps(declared: Any) -> tuple[str, ...]:
    """Canonical names of the steps: what changes no token (offsets, one-element sequences) is left out."""
    if not isinstance(declared, dict):
        return ()
    kind = declared.get("type")
    if kind == "Sequence":
        return tuple(step for part in _parts(declared, "pretokenizers") for step in _steps(part))
    if kind == "ByteLevel" and declared.get("add_prefix_space") is False:
        return (_GPT2_WORDS if declared.get("use_regex", True) else _BYTES,)
    if kind == "Digits" and declared.get("individual_digits"):
        return ("digits",)
    if kind == "Split" and isinstance(pattern := declared.get("pattern"), dict):
        how = (declared.get("behavior"), bool(declared.get("invert")))
        if how in (("Isolated", False), ("Removed", True)):  # the patterns match every character: both keep the matches
            text = str(pattern.get("Regex")).replace("\r", "\\r").replace("\n", "\\n")  # spelled or as they are
            return (f"split {text}",)
    return (str({key: declared[key] for key in sorted(declared)})[:200],)
