"""Token ids: llama.cpp with our vocabulary against the original tokenizer, on texts that trip tokenizers.

The pre-tokenizer's name is right if and only if the ids are: every row of the table is tried.
"""

import json

import llama_cpp
import pytest
import sentencepiece
import tokenizers

from ggufkit.tokenizer import VocabKind, load_vocabulary
from ggufkit.tokenizer.pretokenizer import ROWS
from tests.architectures import tiny
from tests.architectures.emit import write_gguf
from tests.tokenizer.texts import TEXTS

SPM_KINDS = (VocabKind.SPM, VocabKind.LLAMA_HF, VocabKind.BPE)
DECLARED = json.loads((tiny.DATA / "pretokenizers.json").read_text())
# llama.cpp does not compose letters and marks (NFC); it cuts numbers whole for DeepSeek's older tokenizers, whose
# vocabularies join no two digits (ours does)
KNOWN_TO_DIFFER = {
    "qwen2": {"marks"}, "qwen35": {"marks"}, "olmo": {"marks"}, "command-r": {"marks"}, "exaone4": {"marks"},
    "deepseek-llm": {"numbers"},
}  # fmt: skip
GEMMA4_CASES = [name for name in tiny.CASES if tiny.load_case(name)["pre"] == "gemma4"]
OWN = ("gemma4", "kimi-k2")  # tests of their own
SPM_CASES = [
    name
    for name in tiny.CASES
    if tiny.load_case(name)["vocabulary"] != "bpe.json" and tiny.load_case(name)["pre"] not in OWN
]
BPE_CASES = [name for name in tiny.CASES if tiny.load_case(name)["vocabulary"] == "bpe.json"]


class Vocab:
    """llama.cpp's tokenizer on a file that holds a vocabulary alone."""

    def __init__(self, folder, n_vocab, kinds, path):
        entries = load_vocabulary(folder, n_vocab, kinds)
        self.kv = {kv.key: kv.value for kv in entries}
        write_gguf(path, [architecture(), *entries])
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert self.model
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def ids(self, text, *, parse_special=True):
        raw = text.encode()
        out = (llama_cpp.llama_token * (len(raw) + 8))()
        n = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), out, len(out), False, parse_special)
        assert n >= 0
        return list(out[:n])

    def close(self):
        llama_cpp.llama_model_free(self.model)


def architecture():
    from gguf import GGUFValueType

    from ggufkit.formats.model import KV

    return KV("general.architecture", GGUFValueType.STRING, "llama")


@pytest.fixture
def open_vocab(tmp_path):
    opened = []

    def open_(folder, n_vocab, kinds):
        opened.append(Vocab(folder, n_vocab, kinds, tmp_path / "vocab.gguf"))
        return opened[-1]

    yield open_
    for vocab in opened:
        vocab.close()


def differing(ours, theirs):
    return {name: (ours(text), theirs(text)) for name, text in TEXTS.items() if ours(text) != theirs(text)}


@pytest.mark.parametrize("name", SPM_CASES)
def test_sentencepiece_ids(name, tmp_path, open_vocab):
    case = tiny.load_case(name)
    tiny.write_files(case, tmp_path / name)
    kinds = SPM_KINDS if case["vocabulary"].endswith(".json") else (VocabKind.SPM,)
    config = case["config"]
    vocab = open_vocab(tmp_path / name, config.get("text_config", config)["vocab_size"], kinds)
    model = case["vocabulary"] if case["vocabulary"].endswith(".model") else "spm.model"
    original = sentencepiece.SentencePieceProcessor(model_file=str(tiny.DATA / model))
    assert differing(vocab.ids, original.encode) == {}


@pytest.mark.parametrize("name", BPE_CASES)
def test_byte_level_ids(name, tmp_path, open_vocab):
    case = tiny.load_case(name)
    config = case["config"]
    tiny.write_files(case, tmp_path / name)
    vocab = open_vocab(tmp_path / name, config.get("text_config", config)["vocab_size"], (VocabKind.BPE,))
    original = tokenizers.Tokenizer.from_file(str(tmp_path / name / "tokenizer.json"))
    wrong = differing(vocab.ids, lambda text: original.encode(text, add_special_tokens=False).ids)
    assert set(wrong) == KNOWN_TO_DIFFER.get(case["pre"], set())


@pytest.mark.parametrize("name", GEMMA4_CASES[:1])
def test_gemma4_ids(name, tmp_path, open_vocab):
    case = tiny.load_case(name)
    tiny.write_files(case, tmp_path / name)
    vocab = open_vocab(tmp_path / name, case["config"]["text_config"]["vocab_size"], (VocabKind.GEMMA4,))
    original = tokenizers.Tokenizer.from_file(str(tmp_path / name / "tokenizer.json"))
    texts = TEXTS | {"markers": "a<|turn>b <|channel>c<|other>d"}
    wrong = {
        name for name, text in texts.items() if vocab.ids(text) != original.encode(text, add_special_tokens=False).ids
    }
    assert wrong == set()


KIMI = (  # as the Python code beside tiktoken.model has it
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
)


def test_kimis_ids(tmp_path, open_vocab):
    tiny.write_files(tiny.load_case("kimi-k2-instruct"), tmp_path / "kimi")
    vocab = open_vocab(tmp_path / "kimi", 912, (VocabKind.BPE, VocabKind.KIMI))
    step = {"type": "Split", "pattern": {"Regex": "|".join(KIMI)}, "behavior": "Isolated", "invert": False}
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    write_tokenizer(
        tmp_path, DECLARED["dbrx"] | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [step, letters]}}
    )
    original = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert differing(vocab.ids, lambda text: original.encode(text, add_special_tokens=False).ids) == {}
    assert vocab.ids("a<|im_end|>b<|reserved_token_650|>")[1::2] == [642, 650]


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_pretokenizer_is_recognized_and_cuts_alike(name, tmp_path, open_vocab):
    write_tokenizer(tmp_path, DECLARED[name])
    vocab = open_vocab(tmp_path, 640, (VocabKind.BPE,))
    assert vocab.kv["tokenizer.ggml.pre"] == name
    original = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    wrong = differing(vocab.ids, lambda text: original.encode(text, add_special_tokens=False).ids)
    assert set(wrong) == KNOWN_TO_DIFFER.get(name, set())


@pytest.mark.parametrize(("name", "other"), [("gpt-2", "qwen2"), ("qwen2", "llama-bpe"), ("llama-bpe", "smollm")])
def test_another_name_would_cut_otherwise(name, other, tmp_path, open_vocab):
    write_tokenizer(tmp_path, DECLARED[other])
    vocab = open_vocab(tmp_path, 640, (VocabKind.BPE,))
    write_tokenizer(tmp_path, DECLARED[name])
    original = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert differing(vocab.ids, lambda text: original.encode(text, add_special_tokens=False).ids)


def write_tokenizer(folder, declared):
    tiny.write_json(folder / "tokenizer.json", tiny.with_vocabulary(declared, "bpe.json"))


def test_user_defined_symbols_stay_whole(tmp_path, open_vocab):
    """The converter stores them as ordinary pieces, which llama.cpp then cuts to letters.

    Text behind one gets a space from llama.cpp, as behind every special token; SentencePiece puts none there.
    """
    (tmp_path / "tokenizer.model").write_bytes((tiny.DATA / "spm_user.model").read_bytes())
    vocab = open_vocab(tmp_path, 480, (VocabKind.SPM,))
    original = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in ("Tell me<|user|>", "What is it[TOOL]"):
        assert vocab.ids(text) == original.encode(text)
    symbols = [original.PieceToId("<|user|>"), original.PieceToId("[TOOL]")]
    assert [i for i in vocab.ids("a<|user|>b[TOOL]c") if i in symbols] == symbols


def test_added_tokens_are_whole(tmp_path, open_vocab):
    case = tiny.load_case("phi-2")
    tiny.write_files(case, tmp_path / "phi-2")
    vocab = open_vocab(tmp_path / "phi-2", 672, (VocabKind.BPE,))
    original = tokenizers.Tokenizer.from_file(str(tmp_path / "phi-2" / "tokenizer.json"))
    text = "def f():\n    x\t\t=<|endoftext|>  1"
    assert vocab.ids(text) == original.encode(text, add_special_tokens=False).ids
    assert {640, 642, 644, 645} <= set(vocab.ids(text))
