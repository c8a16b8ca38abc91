"""The shipped model of 260 thousand weights, and what a sequence's first token becomes in it, by numpy alone."""

from pathlib import Path

import gguf
import numpy as np

FOLDER = Path(__file__).resolve().parents[2] / "models" / "stories260K"
N_LAYER, N_EMBD, N_HEAD, N_HEAD_KV = 5, 64, 8, 4


def weights(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of an F32 file, (n_rows, n_per_row), in float64."""
    return {t.name: t.data.astype(np.float64) for t in gguf.GGUFReader(path).tensors}


def normed(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5) * weight


def first_row(of: dict[str, np.ndarray], token: int) -> list[np.ndarray]:
    """Each layer's output (n_embd,) at position 0, where attention sees the token alone and RoPE turns nothing."""
    x, out = of["token_embd.weight"][token], []
    for layer in range(N_LAYER):
        w = {name.removeprefix(f"blk.{layer}."): value for name, value in of.items()}
        v = w["attn_v.weight"] @ normed(x, w["attn_norm.weight"])
        x = x + w["attn_output.weight"] @ np.repeat(v.reshape(N_HEAD_KV, -1), N_HEAD // N_HEAD_KV, axis=0).reshape(-1)
        y = normed(x, w["ffn_norm.weight"])
        gate = w["ffn_gate.weight"] @ y
        x = x + w["ffn_down.weight"] @ (gate / (1 + np.exp(-gate)) * (w["ffn_up.weight"] @ y))
        out.append(x)
    return out
