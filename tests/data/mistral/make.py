"""Makes cases.json: folders with Mistral's own files, and what the references make of them.

Run by hand; it needs torch, transformers 5, sentencepiece, mistral-common and llama.cpp's source:

    refvenv/bin/python tests/data/mistral/make.py PATH/TO/llama.cpp [TEXT.txt]

TEXT.txt is what control.model, SentencePiece's with Mistral's control tokens, is trained on; without it it is kept.
A case holds what llama.cpp's converter makes of the folder (--mistral-format) and what mistral-common makes of
tests/tokenizer/texts.py and of a few conversations.
"""

import base64
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / name) for name in ("architectures", "tokenizer", "data/parity")]
import tiny  # noqa: E402
from texts import TEXTS  # noqa: E402

PATTERN = json.loads((tiny.DATA / "pretokenizers.json").read_text())["tekken"]["pre_tokenizer"]["pretokenizers"][0]
SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
           "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
           "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "[THINK]",
           "[/THINK]"]  # fmt: skip
CONTROL = SPECIAL[3:10] + SPECIAL[14:20]
N_SPECIAL, N_PIECES = 32, 640
SIZES = {"dim": 64, "n_layers": 2, "head_dim": 16, "hidden_dim": 96, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5,
         "rope_theta": 1000000.0, "vocab_size": N_SPECIAL + N_PIECES}  # fmt: skip
YARN = {"yarn": {"original_max_position_embeddings": 64, "factor": 16, "apply_scale": False, "beta": 32, "alpha": 1}}
FP8 = {"quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}}
VISION = {"vision_encoder": {"hidden_size": 32, "num_hidden_layers": 1}}
CASES = {
    "ministral-3": {
        "params": SIZES | YARN | FP8 | VISION | {
            "llama_4_scaling": {"beta": 0.1, "original_max_position_embeddings": 64}, "tied_embeddings": True,
            "max_position_embeddings": 1024,
        },
        "version": "v13", "template": "{{ messages[0].content }}",
    },
    "mistral-large-3": {
        "params": SIZES | YARN | {
            "llama_4_scaling": {"beta": 0.1, "original_max_position_embeddings": 64}, "max_position_embeddings": 1024,
            "q_lora_rank": 24, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
            "n_kv_heads": 4, "head_dim": None,
            "moe": {"num_experts": 4, "num_experts_per_tok": 2, "expert_hidden_dim": 32, "num_shared_experts": 1,
                    "first_k_dense_replace": 1, "routed_scale": 1.0, "num_expert_groups": 1, "route_every_n": 1,
                    "num_expert_groups_per_tok": 1},
        },
        "version": "v13", "template": "{{ messages[0].content }}",
    },
    "mistral-small": {"params": SIZES | {"max_position_embeddings": 256}, "version": "v7"},
    "mistral-medium": {"params": SIZES | YARN | {"max_position_embeddings": 1024}, "version": "v11"},
    "mistral-nemo": {"params": SIZES | {"max_position_embeddings": 256}, "version": "v3"},
    "mistral-7b": {"params": SIZES | {"max_position_embeddings": 256, "vocab_size": 480}, "version": "v3", "spm": True},
    "mistral-large": {"params": SIZES | {"max_position_embeddings": 256, "vocab_size": 480}, "version": "v7",
                      "spm": True},
}  # fmt: skip
CHATS = (
    [("user", "Hi there")],
    [("user", "Hi there"), ("assistant", "Hello."), ("user", "And now?")],
    [("system", "Be brief."), ("user", "Hi there")],
    [("system", "Be brief."), ("user", "Hi there"), ("assistant", "Hello."), ("user", "And now?")],
)


def tekken(version):
    """tekken.json with the pieces of parity/bpe.json."""
    shared = json.loads((tiny.DATA / "bpe.json").read_text(encoding="utf-8"))
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}
    merged = [bytes(byte_of[letter] for letter in left + right) for left, right in shared["merges"]]
    pieces = [bytes([i]) for i in range(256)] + merged
    vocab = [{"rank": i, "token_bytes": base64.b64encode(piece).decode(), "token_str": piece.decode(errors="ignore")}
             for i, piece in enumerate(pieces)]  # fmt: skip
    config = {"pattern": PATTERN["pattern"]["Regex"], "num_vocab_tokens": len(vocab), "version": version,
              "default_vocab_size": N_SPECIAL + len(vocab), "default_num_special_tokens": N_SPECIAL}  # fmt: skip
    out = {"config": config, "vocab": vocab}
    if version != "v3":
        out["special_tokens"] = [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(SPECIAL)]
    return out


def shapes(params):
    """Names and shapes of consolidated.safetensors."""
    if "kv_lora_rank" in params:
        return latent_shapes(params)
    n, n_ff, n_q = params["dim"], params["hidden_dim"], params["n_heads"] * params["head_dim"]
    n_kv = params["n_kv_heads"] * params["head_dim"]
    out = {"tok_embeddings.weight": [params["vocab_size"], n], "norm.weight": [n]}
    if not params.get("tied_embeddings"):
        out["output.weight"] = [params["vocab_size"], n]
    matrices = {"attention.wq": [n_q, n], "attention.wk": [n_kv, n], "attention.wv": [n_kv, n],
                "attention.wo": [n, n_q], "feed_forward.w1": [n_ff, n], "feed_forward.w2": [n, n_ff],
                "feed_forward.w3": [n_ff, n]}  # fmt: skip
    for i in range(params["n_layers"]):
        out |= {f"layers.{i}.{name}.weight": shape for name, shape in matrices.items()}
        out |= {f"layers.{i}.{name}.weight": [n] for name in ("attention_norm", "ffn_norm")}
        if "quantization" in params:
            out |= {f"layers.{i}.{name}.{scale}": [] for name in matrices for scale in ("qscale_weight", "qscale_act")}
    if "vision_encoder" in params:
        out |= {"vision_encoder.patch_conv.weight": [4, 4], "vision_language_adapter.w_in.weight": [4, 4],
                "pre_mm_projector_norm.weight": [4], "patch_merger.merging_layer.weight": [4, 4]}  # fmt: skip
    return out


def latent_shapes(params):
    """The same of Mistral Large 3: latent attention, experts behind the first layer."""
    n, heads, rank, q_rank = params["dim"], params["n_heads"], params["kv_lora_rank"], params["q_lora_rank"]
    nope, rope, value = params["qk_nope_head_dim"], params["qk_rope_head_dim"], params["v_head_dim"]
    out = {"tok_embeddings.weight": [params["vocab_size"], n], "norm.weight": [n],
           "output.weight": [params["vocab_size"], n]}  # fmt: skip
    moe = params["moe"]
    for i in range(params["n_layers"]):
        mine = {"attention.wq_a": [q_rank, n], "attention.wq_b": [heads * (nope + rope), q_rank],
                "attention.wkv_a_with_mqa": [rank + rope, n], "attention.wkv_b": [heads * (nope + value), rank],
                "attention.wo": [n, heads * value]}  # fmt: skip
        groups = {"feed_forward": params["hidden_dim"]}
        if i >= moe["first_k_dense_replace"]:
            groups = {f"experts.{k}": moe["expert_hidden_dim"] for k in range(moe["num_experts"])}
            groups |= {"shared_experts": moe["expert_hidden_dim"]}
            out[f"layers.{i}.gate.weight"] = [moe["num_experts"], n]
        for group, n_ff in groups.items():
            mine |= {f"{group}.w1": [n_ff, n], f"{group}.w2": [n, n_ff], f"{group}.w3": [n_ff, n]}
        for name, shape in mine.items():
            out[f"layers.{i}.{name}.weight"] = shape
        norms = {"attention_norm": n, "ffn_norm": n, "attention.q_a_norm": q_rank, "attention.kv_a_norm": rank}
        out |= {f"layers.{i}.{name}.weight": [size] for name, size in norms.items()}
    return out


def tensor_of(name, shape, fp8):
    if name.endswith(("qscale_weight", "qscale_act")):
        return "F32", shape, np.float32(1 / 256 + len(name) / 65536).tobytes()
    if fp8 and name.startswith("layers.") and "norm" not in name and ".gate." not in name:
        count = int(np.prod(shape))
        raw = hashlib.shake_256(name.encode()).digest(count)
        return "F8_E4M3", shape, bytes(byte - (byte & 127 == 127) for byte in raw)
    return "BF16", shape, tiny.encode(tiny.weights(name, shape), "BF16")


def write(name, root):
    """The folder of a case; returns it."""
    case, folder = CASES[name], root / name
    folder.mkdir(parents=True)
    tiny.write_json(folder / "params.json", {key: v for key, v in case["params"].items() if v is not None})
    if case.get("spm"):
        (folder / f"tokenizer.model.{case['version']}").write_bytes((HERE / "control.model").read_bytes())
    else:
        tiny.write_json(folder / "tekken.json", tekken(case["version"]))
    if "template" in case:
        (folder / "chat_template.jinja").write_text(case["template"])
    fp8 = "quantization" in case["params"]
    made = {key: tensor_of(key, shape, fp8) for key, shape in shapes(case["params"]).items()}
    dtypes = {key: kind for key, (kind, *_) in made.items()}
    tensors = {key: made[key][1:] for key in sorted(made)}
    tiny.write_safetensors(folder / "consolidated.safetensors", tensors, "BF16", dtypes)
    return folder


def train(text):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        input=text, model_prefix=str(HERE / "control"), model_type="bpe", vocab_size=480, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, unk_id=0, bos_id=1,
        eos_id=2, pad_id=-1, character_coverage=0.98, max_sentence_length=20000, num_threads=1,
        control_symbols=CONTROL, allow_whitespace_only_pieces=True, minloglevel=2,
    )  # fmt: skip
    (HERE / "control.vocab").unlink()


def mistral_common(folder):
    """Token ids of the texts and of the conversations."""
    from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    kinds = {"user": UserMessage, "assistant": AssistantMessage, "system": SystemMessage}
    path = next(path for path in folder.iterdir() if path.name.startswith(("tekken", "tokenizer.model")))
    tokenizer = MistralTokenizer.from_file(str(path))
    inner = tokenizer.instruct_tokenizer.tokenizer
    chats = []
    for chat in CHATS:
        request = ChatCompletionRequest(messages=[kinds[role](content=content) for role, content in chat])
        chats.append(tokenizer.encode_chat_completion(request).tokens)
    return {"ids": {key: inner.encode(text, bos=False, eos=False) for key, text in TEXTS.items()}, "chats": chats}


def main():
    parity = tiny.parity_make()
    sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/gguf-py"]
    if len(sys.argv) > 2:
        train(sys.argv[2])
    import convert_hf_to_gguf

    out = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as scratch:
            folder, path = write(name, Path(scratch)), Path(scratch) / "out.gguf"
            if "moe" in CASES[name]["params"]:  # the converter opens one there, and asks nothing of it
                tiny.write_json(folder / "config.json", {"architectures": ["None"], "model_type": "none"})
            sys.argv[1:] = [str(folder), "--outfile", str(path), "--outtype", "f32", "--mistral-format"]
            convert_hf_to_gguf.main()
            out[name] = parity.read_facts(path) | mistral_common(folder)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(facts, ensure_ascii=False)}" for name, facts in out.items())
    (HERE / "cases.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
