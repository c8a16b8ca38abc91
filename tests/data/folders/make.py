"""Makes cases.json: folders whose tokenizer is vocab.json and merges.txt alone, and what the references make of them.

Run by hand; it needs torch, transformers 5 and llama.cpp's source:

    refvenv/bin/python tests/data/folders/make.py PATH/TO/llama.cpp

A case holds config.json, the small files, the entries tokenizer.* of llama.cpp's converter and the token ids that
Hugging Face's tokenizer gives for tests/tokenizer/texts.py.
"""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / name) for name in ("architectures", "tokenizer", "data/parity")]
import tiny  # noqa: E402
from texts import TEXTS  # noqa: E402

END = "<|endoftext|>"


def numbered(*tokens):
    """added_tokens_decoder; a text that begins with < and a bar is special."""
    out = {}
    for number, text in enumerate(tokens, 640):
        out[str(number)] = {"content": text, "lstrip": False, "normalized": False, "rstrip": False,
                            "single_word": False, "special": text.startswith("<|")}  # fmt: skip
    return out


CHAT = {"chat_template": "{{ messages[0].content }}"}
QWEN_ROLES = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": END, "add_bos_token": False}
GPT2_ROLES = {"bos_token": END, "eos_token": END, "unk_token": END}
# name: base (a case of parity/), what tokenizer_config.json says (None: there is none), other files, more of the
# vocabulary, the pre-tokenizer's name, what config.json does not say
CASES = {
    "qwen2, numbered in tokenizer_config.json": {
        "base": "qwen2.5-7b-instruct", "pre": "qwen2",
        "tokenizer_config": QWEN_ROLES | CHAT | {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder":
                             numbered(END, "<|im_start|>", "<|im_end|>", "<tool_call>")},
    },
    "qwen2, by its config alone": {"base": "qwen3-8b", "pre": "qwen2", "tokenizer_config": None},
    "qwen2, roles that no file numbers": {
        "base": "qwen3-30b-a3b", "pre": "qwen2",
        "tokenizer_config": QWEN_ROLES | {"tokenizer_class": "Qwen2TokenizerFast"},
    },
    "qwen2, added_tokens.json": {
        "base": "qwen2.5-7b-instruct", "pre": "qwen2",
        "tokenizer_config": QWEN_ROLES | {"tokenizer_class": "Qwen2Tokenizer"},
        "files": {"added_tokens.json": {END: 640, "<|im_start|>": 641, "<|im_end|>": 642, "<think>": 643},
                  "special_tokens_map.json": {"eos_token": "<|im_end|>", "pad_token": END,
                                              "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}},
    },
    "phi-2": {
        "base": "phi-2", "pre": "phi-2", "more": {END: 640},
        "tokenizer_config": GPT2_ROLES | {"tokenizer_class": "CodeGenTokenizer", "add_prefix_space": False},
        "files": {"added_tokens.json": {"     ": 641, "    ": 642, "   ": 643, "  ": 644, "\t\t": 645}},
    },
    "starcoder2, special tokens in vocab.json": {
        "base": "starcoder2-3b", "pre": "gpt-2", "more": {END: 640, "<fim_prefix>": 641},
        "tokenizer_config": GPT2_ROLES | {"tokenizer_class": "GPT2Tokenizer",
                                          "additional_special_tokens": ["<fim_prefix>"]},
    },
    "olmoe": {
        "base": "olmoe-1b-7b-0924", "pre": "olmo",
        "tokenizer_config": {"tokenizer_class": "GPTNeoXTokenizer", "eos_token": END, "pad_token": "<|padding|>",
                             "added_tokens_decoder": numbered(END, "<|padding|>")},
    },
}  # fmt: skip


def files_of(name):
    """Everything of the folder but config.json and the weights."""
    case = CASES[name]
    shared = json.loads((tiny.DATA / "bpe.json").read_text(encoding="utf-8"))
    merges = "\n".join(" ".join(pair) for pair in shared["merges"])
    out = {"vocab.json": shared["vocab"] | case.get("more", {}), "merges.txt": f"#version: 0.2\n{merges}\n"}
    if case["tokenizer_config"] is not None:
        out["tokenizer_config.json"] = case["tokenizer_config"]
    return out | case.get("files", {})


def write(name, folder):
    """The folder of a case, with weights; returns it."""
    case = tiny.load_case(CASES[name]["base"])
    folder = folder / CASES[name]["base"]
    tiny.write_files(case | {"files": {}}, folder)
    for file, content in files_of(name).items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (folder / file).write_text(text, encoding="utf-8")
    tiny.write_weights(case["source"], case["dtype"], folder)
    return folder


def main():
    parity = tiny.parity_make()
    sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/gguf-py"]
    from transformers import AutoTokenizer

    out = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = write(name, Path(scratch))
            tokenizer = AutoTokenizer.from_pretrained(folder)
            ids = {key: tokenizer(text, add_special_tokens=False)["input_ids"] for key, text in TEXTS.items()}
            path = Path(scratch) / "out.gguf"
            parity.run_converter(folder, "f32", case["pre"], path)
            kv = {key: value for key, value in parity.read_facts(path)["kv"].items() if key.startswith("tokenizer.")}
        out[name] = {"kv": kv, "ids": ids}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(facts, ensure_ascii=False)}" for name, facts in out.items())
    (HERE / "cases.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
