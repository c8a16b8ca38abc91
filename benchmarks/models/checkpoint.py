"""A GGUF of a llama or qwen2 model as a Hugging Face folder: BF16 shards with their index, configs, tokenizer.json.

Converting the folder gives the vocabulary, the template and the shapes of the GGUF again. With `n_expert` the folder
is a Mixtral: each expert is the model's feed-forward with a tenth of noise of its own, each router a random
projection, so that tokens spread unevenly over the experts, as they do in a real mixture.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from models.stand_in import F32Array

SHARD_NBYTES = 256 << 20
INDEX = "model.safetensors.index.json"
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INNER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
EXPERT = {"ffn_gate": "w1", "ffn_down": "w2", "ffn_up": "w3"}
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # of tokenizer.ggml.token_type
SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


def is_complete(folder: Path) -> bool:
    return (folder / INDEX).exists()  # written last


def write(source: Path, folder: Path, *, n_expert: int = 0) -> None:
    """Write the folder; `n_expert` 0 keeps the model dense."""
    reader = gguf.GGUFReader(source)
    metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    tied = not any(tensor.name == "output.weight" for tensor in reader.tensors)
    folder.mkdir(parents=True, exist_ok=True)
    _dump(folder / "config.json", config(metadata, tied, n_expert))
    _dump(folder / "generation_config.json", {f"{key}_token_id": special(metadata)[key] for key in ("bos", "eos", "pad")})
    _dump(folder / "tokenizer.json", tokenizer(metadata))
    _dump(folder / "tokenizer_config.json", tokenizer_config(metadata))
    _write_shards(folder, _named_tensors(reader, metadata, n_expert))


def special(metadata: dict[str, Any]) -> dict[str, int | None]:
    """Ids of the special tokens by Hugging Face's words."""
    return {key: metadata.get(f"tokenizer.ggml.{word}_token_id") for key, word in SPECIAL.items()}


def config(metadata: dict[str, Any], tied: bool, n_expert: int) -> dict[str, Any]:
    arch = metadata["general.architecture"]

    def of(key: str) -> Any:
        return metadata[f"{arch}.{key}"]

    ids = special(metadata)
    out = {
        "architectures": ["LlamaForCausalLM" if arch == "llama" else "Qwen2ForCausalLM"],
        "model_type": arch,
        "hidden_act": "silu",
        "hidden_size": of("embedding_length"),
        "intermediate_size": of("feed_forward_length"),
        "num_hidden_layers": of("block_count"),
        "num_attention_heads": of("attention.head_count"),
        "num_key_value_heads": of("attention.head_count_kv"),
        "max_position_embeddings": of("context_length"),
        "rms_norm_eps": float(f"{of('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": of("rope.freq_base"),
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
    }
    if n_expert:
        out |= {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "num_local_experts": n_expert,
            "num_experts_per_tok": 2,
            "sliding_window": None,
        }
    return out


def tokenizer(metadata: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE with the pre-tokenizer of SmolLM2 or Qwen2."""
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    is_qwen = metadata["tokenizer.ggml.pre"] == "qwen2"
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": i, "content": token, "special": kind == CONTROL} | flags
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    kept = (NORMAL,) if is_qwen else (NORMAL, CONTROL, USER_DEFINED)
    vocab = {token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind in kept}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not is_qwen}
    digits = {"type": "Digits", "individual_digits": True}
    split = {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if is_qwen else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split if is_qwen else digits, level]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": metadata["tokenizer.ggml.merges"]},
    }


def tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    is_qwen = metadata["tokenizer.ggml.pre"] == "qwen2"
    tokens = metadata["tokenizer.ggml.tokens"]
    named = {f"{key}_token": tokens[i] for key, i in special(metadata).items() if i is not None}
    if is_qwen:
        named.pop("unk_token", None)
    return {
        "tokenizer_class": "Qwen2Tokenizer" if is_qwen else "GPT2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "chat_template": metadata.get("tokenizer.chat_template"),
    } | named


def _named_tensors(
    reader: gguf.GGUFReader, metadata: dict[str, Any], n_expert: int
) -> Iterator[tuple[str, F32Array]]:
    for tensor in reader.tensors:
        w = np.asarray(tensor.data, dtype=np.float32).reshape([int(n) for n in reversed(tensor.shape)])
        if not tensor.name.startswith("blk."):
            yield OUTER[tensor.name], w
            continue
        _, layer, inner, kind = tensor.name.split(".")
        if n_expert and inner in EXPERT:
            yield from _experts(int(layer), inner, w, n_expert)
        else:
            yield f"model.layers.{layer}.{INNER[inner]}.{kind}", _rotated_back(w, inner, metadata)


def _rotated_back(w: F32Array, inner: str, metadata: dict[str, Any]) -> F32Array:
    """Rows of q and k of a llama in the order of Hugging Face: halves instead of neighbours are rotated together."""
    heads = {"attn_q": "head_count", "attn_k": "head_count_kv"}
    if metadata["general.architecture"] != "llama" or inner not in heads:
        return w
    n = metadata[f"llama.attention.{heads[inner]}"]
    return w.reshape(n, len(w) // n // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def _experts(layer: int, inner: str, w: F32Array, n_expert: int) -> Iterator[tuple[str, F32Array]]:
    prefix, name = f"model.layers.{layer}.block_sparse_moe", EXPERT[inner]

    def noise(expert: int, shape: tuple[int, ...]) -> F32Array:
        rng = np.random.default_rng([layer, expert, ord(name[1])])
        return rng.standard_normal(shape, dtype=np.float32)

    for expert in range(n_expert):
        yield f"{prefix}.experts.{expert}.{name}.weight", w * (1 + 0.1 * noise(expert, w.shape))
    if inner == "ffn_gate":
        n_embd = w.shape[1]
        yield f"{prefix}.gate.weight", noise(n_expert, (n_expert, n_embd)) / np.sqrt(n_embd, dtype=np.float32)


def _write_shards(folder: Path, tensors: Iterator[tuple[str, F32Array]]) -> None:
    """Write shards as they fill and give them their final names when their number is known; the index comes last."""
    shards: list[list[str]] = []
    shard: dict[str, NDArray[np.uint16]] = {}
    total = nbytes = 0

    def close() -> None:
        _write_safetensors(folder / f"shard-{len(shards)}.tmp", shard)
        shards.append(list(shard))
        shard.clear()

    for name, w in tensors:
        if shard and nbytes + 2 * w.size > SHARD_NBYTES:
            close()
            nbytes = 0
        shard[name] = bf16(w)
        nbytes += 2 * w.size
        total += 2 * w.size
    close()
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for i, file in enumerate(files):
        (folder / f"shard-{i}.tmp").rename(folder / file)
    where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    _dump(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def _write_safetensors(path: Path, tensors: dict[str, NDArray[np.uint16]]) -> None:
    """Bits of BF16 tensors as one file: length of the header, header, data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, bits in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [start, start + bits.nbytes]}
        start += bits.nbytes
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for bits in tensors.values():
            file.write(bits.tobytes())


def bf16(w: F32Array) -> NDArray[np.uint16]:
    """Nearest BF16 numbers, ties to even, as their bits."""
    bits = np.ascontiguousarray(w).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def _dump(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
