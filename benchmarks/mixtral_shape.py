"""A checkpoint with the shapes of Mixtral 8x7B (a layer or two of it), made from a seed, and an imatrix for it.

Weights are heavy-tailed noise in bf16, written as Hugging Face writes them; the vocabulary is the shipped one, padded.
What it says about speed, memory and disk holds for the real model; what it says as a language model means nothing.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TOKENIZER = Path(__file__).resolve().parent.parent / "models" / "tiny-mixtral"
U16Array = NDArray[np.uint16]


def make(
    folder: Path, *, n_layer: int = 1, n_embd: int = 4096, n_ff: int = 14336, n_expert: int = 8, n_vocab: int = 32000,
    seed: int = 0,
) -> Path:  # fmt: skip
    """Write the checkpoint into `folder` (one safetensors file a layer) and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    n_head, n_head_kv = n_embd // 128, max(1, n_embd // 512)
    config = {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "torch_dtype": "bfloat16",
        "hidden_size": n_embd, "intermediate_size": n_ff, "num_hidden_layers": n_layer, "vocab_size": n_vocab,
        "num_attention_heads": n_head, "num_key_value_heads": n_head_kv, "head_dim": 128, "rope_theta": 1e6,
        "num_local_experts": n_expert, "num_experts_per_tok": 2, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    noise = Noise(seed)
    groups = [_outer(n_embd, n_vocab)] + [_layer(i, n_embd, n_ff, n_expert, 128 * n_head_kv) for i in range(n_layer)]
    weight_map = {}
    for number, shapes in enumerate(groups, 1):
        name = f"model-{number:05}-of-{len(groups):05}.safetensors"
        _write_shard(folder / name, shapes, noise)
        weight_map |= dict.fromkeys(shapes, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def _outer(n_embd: int, n_vocab: int) -> dict[str, tuple[int, ...]]:
    return {
        "model.embed_tokens.weight": (n_vocab, n_embd),
        "lm_head.weight": (n_vocab, n_embd),
        "model.norm.weight": (n_embd,),
    }


def _layer(i: int, n_embd: int, n_ff: int, n_expert: int, n_kv: int) -> dict[str, tuple[int, ...]]:
    at = f"model.layers.{i}."
    shapes: dict[str, tuple[int, ...]] = {
        at + "input_layernorm.weight": (n_embd,),
        at + "post_attention_layernorm.weight": (n_embd,),
        at + "self_attn.q_proj.weight": (n_embd, n_embd),
        at + "self_attn.k_proj.weight": (n_kv, n_embd),
        at + "self_attn.v_proj.weight": (n_kv, n_embd),
        at + "self_attn.o_proj.weight": (n_embd, n_embd),
        at + "block_sparse_moe.gate.weight": (n_expert, n_embd),
    }
    for e in range(n_expert):
        expert = f"{at}block_sparse_moe.experts.{e}."
        shapes |= {expert + "w1.weight": (n_ff, n_embd), expert + "w2.weight": (n_embd, n_ff)}
        shapes |= {expert + "w3.weight": (n_ff, n_embd)}
    return shapes


class Noise:
    """Endless bf16 weights: Student-t with 5 degrees of freedom, scaled as trained weights are."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        values = (0.02 * rng.standard_t(5, 1 << 22)).astype(np.float32)
        self._pool: U16Array = (values.view(np.uint32) >> 16).astype(np.uint16)
        self._at = 0

    def take(self, n: int) -> Iterator[U16Array]:
        """`n` values in pieces. The pool is read round and round from an ever-changing place."""
        while n:
            self._at = (self._at * 5 + 12345) % (self._pool.size // 2)
            piece = self._pool[self._at : self._at + n]
            n -= piece.size
            yield piece


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]], noise: Noise) -> None:
    header, offset = {}, 0
    for name, shape in shapes.items():
        nbytes = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            for piece in noise.take(int(np.prod(shape))):
                file.write(piece.tobytes())


def make_imatrix(path: Path, model_path: Path, seed: int = 1) -> Path:
    """An importance file with a log-normal spread for every tensor of the checkpoint that has one in practice."""
    from ggufkit.architectures.source import open_source
    from ggufkit.formats.imatrix import Imatrix, ImatrixEntry
    from ggufkit.formats.imatrix_file import write_imatrix

    rng = np.random.default_rng(seed)
    entries = {}
    for tensor in open_source(model_path).tensors:
        if tensor.keep_f32 or not tensor.name.startswith("blk."):
            continue
        counts = rng.integers(1000, 5000, tensor.n_expert).astype(np.float32)
        spread = np.exp(rng.standard_normal((tensor.n_expert, tensor.n_per_row))).astype(np.float32)
        entries[tensor.name] = ImatrixEntry(spread * counts[:, None], counts)
    write_imatrix(path, Imatrix(datasets=("noise",), chunk_count=10, chunk_size=512, entries=entries))
    return path
