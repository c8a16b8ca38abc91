"""The small vocabularies of the cases, and the declarations around them as real tokenizer.json files have them."""

import json
from pathlib import Path

HERE = Path(__file__).parent

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UP, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"
CASED = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ"
    "-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ"
    "-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
PATTERNS = {
    "cl100k": rf"{CONTRACTIONS}|{LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{REST}",
    "qwen2": rf"{CONTRACTIONS}|{LEAD}\p{{L}}+|\p{{N}}|{REST}",
    "tekken": rf"{LEAD}{UP}*{LOW}+|{LEAD}{UP}+{LOW}*|\p{{N}}|{REST_SLASH}",
    "qwen35": rf"{CONTRACTIONS}|{LEAD}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}",
    "seed": rf"{CONTRACTIONS}|{LEAD}\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{SPACES}",
    "numbers": r"\p{N}{1,3}",
    "cjk": "[一-龥\u3040-ゟ゠-ヿ]+",
    "lines": "[\r\n]",
    "cased": rf"\s?[{CASED}]+",
    "marks": r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "end": r"\s+$",
    "han": "[一-龥ࠀ-一가-퟿]+",
    # carriage return and line feed as they are, not spelled
    "deepseek": r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"""
    "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    "o200k": rf"{LEAD}{UP}*{LOW}+{CONTRACTIONS}?|{LEAD}{UP}+{LOW}*{CONTRACTIONS}?|\p{{N}}{{1,3}}|{REST_SLASH}",
}
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def split(*patterns, digits=False, **how):
    step = {"type": "Split", "behavior": "Isolated", "invert": False} | how
    steps = [step | {"pattern": {"Regex": PATTERNS[pattern]}} for pattern in patterns]
    if digits:
        steps.append({"type": "Digits", "individual_digits": True})
    return {"type": "Sequence", "pretokenizers": [*steps, GPT2 | {"use_regex": False}]}


def bpe(pre_tokenizer, added=(), *, normalizer=None, post_processor=None, **model):
    """tokenizer.json but for vocabulary and merges. Added tokens follow the 640 of the vocabulary."""
    tokens = [
        {"id": 640 + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": normalized, "special": special}
        for i, (text, special, normalized) in enumerate(added)
    ]
    return {
        "version": "1.0",
        "added_tokens": tokens,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": GPT2 | {"add_prefix_space": True},
        "model": {"type": "BPE", "unk_token": None, "byte_fallback": False, "fuse_unk": False, **model},
    }


def special(*texts):
    return [(text, True, False) for text in texts]


def template(first):
    """Post-processor that puts `first` before a text, as Llama's tokenizers do."""
    single = [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"SpecialToken": {"id": first, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    tokens = {first: {"id": first, "ids": [640], "tokens": [first]}}
    return {"type": "TemplateProcessing", "single": single, "pair": single + second, "special_tokens": tokens}


def train(text):
    """spm.model (480 pieces), spm_user.model (the same with user-defined symbols), bpe.json (640 tokens)."""
    import sentencepiece
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    for name, symbols in (("spm", []), ("spm_user", ["<|user|>", "[TOOL]"])):
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(HERE / name), model_type="bpe", vocab_size=480, byte_fallback=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, unk_id=0, bos_id=1,
            eos_id=2, pad_id=-1, character_coverage=0.995, max_sentence_length=20000, num_threads=1,
            user_defined_symbols=symbols, allow_whitespace_only_pieces=True, minloglevel=2,
        )  # fmt: skip
        (HERE / f"{name}.vocab").unlink()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=640, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train([str(text)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    shared = {"vocab": model["vocab"], "merges": pairs}
    (HERE / "bpe.json").write_text(json.dumps(shared, ensure_ascii=False) + "\n", encoding="utf-8")
    write_llama_hf()
    write_spm_bare()


def write_spm_bare():
    """spm_bare.model: spm.model without a space before the text (Gemma)."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString((HERE / "spm.model").read_bytes())
    model.normalizer_spec.add_dummy_prefix = False
    (HERE / "spm_bare.model").write_bytes(model.SerializeToString())


def write_llama_hf():
    """llama_hf.json: spm.model as the BPE over characters that tokenizer.json would hold (merges in order of score)."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(HERE / "spm.model"))
    vocab = {model.IdToPiece(i): i for i in range(model.vocab_size())}
    merges = []
    for piece, number in vocab.items():
        if model.IsByte(number) or model.IsControl(number) or model.IsUnknown(number):
            continue
        ways = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        merges += [(number, vocab[a], vocab[b], a, b) for a, b in ways]
    shared = {"vocab": vocab, "merges": [[a, b] for *_, a, b in sorted(merges)]}
    (HERE / "llama_hf.json").write_text(json.dumps(shared, ensure_ascii=False) + "\n", encoding="utf-8")


# Declarations as real tokenizer.json files have them, by llama.cpp's name: GPT-2, OLMo, SmolLM, Llama 3, Phi-4, Qwen2,
# Phi-4-mini (o200k), Mistral NeMo, DeepSeek V2, Qwen3.5,
# Seed-OSS, DeepSeek-V3.
PRETOKENIZERS = {
    "gpt-2": bpe(GPT2),
    "olmo": bpe(GPT2, normalizer={"type": "NFC"}),
    "smollm": bpe({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, GPT2]}),
    "llama-bpe": bpe(split("cl100k"), ignore_merges=True),
    "dbrx": bpe(split("cl100k", behavior="Removed", invert=True)),
    "qwen2": bpe(split("qwen2"), normalizer={"type": "NFC"}),
    "gpt-4o": bpe(split("o200k", behavior="Removed", invert=True)),
    "tekken": bpe(split("tekken"), ignore_merges=True),
    "deepseek-llm": bpe(split("lines", "cased", "marks", "end", "han", digits=True)),
    "qwen35": bpe(split("qwen35"), normalizer={"type": "NFC"}),
    "seed-coder": bpe(split("seed")),
    "deepseek-v3": bpe(split("numbers", "cjk", "deepseek")),
}
