"""Small models whose layers differ by their number: what a model has to say of itself to be cut."""

from pathlib import Path

import gguf
import numpy as np

N_EMBD, N_FF, HEAD, N_VOCAB = 64, 96, 32, 200


def write(path: Path, arch: str, n_layer: int, entries: dict[str, object], shapes: dict[str, tuple[int, ...]]) -> Path:
    """A GGUF without a tokenizer. `shapes`: of a layer's tensors, by name without blk.N., {i} of a list by layer."""
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {"tokenizer.ggml.model": "no_vocab", f"{arch}.vocab_size": N_VOCAB, **entries}.items():
        kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        (writer.add_array if isinstance(value, list) else kinds[type(value)])(key, value)
    writer.add_block_count(n_layer)
    outer = {"token_embd.weight": (N_VOCAB, N_EMBD), "output_norm.weight": (N_EMBD,)}
    layers = {f"blk.{i}.{name}": shape for i in range(n_layer) for name, shape in shapes.items()}
    for name, shape in (outer | layers).items():
        values = rng.standard_normal(shape).astype(np.float32)
        scaled = values / np.sqrt(shape[-1]) if len(shape) > 1 else 1 + values / 10
        writer.add_tensor(name, scaled.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


ATTENTION = {
    "attn_norm.weight": (N_EMBD,),
    "attn_q.weight": (2 * HEAD, N_EMBD),
    "attn_k.weight": (HEAD, N_EMBD),
    "attn_v.weight": (HEAD, N_EMBD),
    "attn_output.weight": (N_EMBD, 2 * HEAD),
    "ffn_norm.weight": (N_EMBD,),
    "ffn_gate.weight": (N_FF, N_EMBD),
    "ffn_up.weight": (N_FF, N_EMBD),
    "ffn_down.weight": (N_EMBD, N_FF),
}
HEAD_NORMS = {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}
SANDWICH = {"post_attention_norm.weight": (N_EMBD,), "post_ffw_norm.weight": (N_EMBD,)}


def sizes(arch: str) -> dict[str, object]:
    return {
        f"{arch}.context_length": 512,
        f"{arch}.embedding_length": N_EMBD,
        f"{arch}.feed_forward_length": N_FF,
        f"{arch}.attention.head_count": 2,
        f"{arch}.attention.head_count_kv": 1,
        f"{arch}.attention.key_length": HEAD,
        f"{arch}.attention.value_length": HEAD,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-6,
        f"{arch}.rope.freq_base": 1e6,
    }


def gemma3(path: Path, n_layer: int = 7, **more: object) -> Path:
    """Every sixth layer sees all and turns its heads slower; embeddings are scaled on their way in."""
    entries = sizes("gemma3") | {"gemma3.attention.sliding_window": 16} | more
    return write(path, "gemma3", n_layer, entries, ATTENTION | HEAD_NORMS | SANDWICH)


def granite(path: Path) -> Path:
    """Embeddings are scaled wherever they come from."""
    scales = {"granite.embedding_scale": 12.0, "granite.residual_scale": 0.22, "granite.attention.scale": 0.1}
    scales |= {"granite.logit_scale": 8.0}
    return write(path, "granite", 3, sizes("granite") | scales, ATTENTION)
