"""Tensors that no checkpoint stores: RoPE factors, computed from config.json.

Knows the Llama 3 and long-context formulas. Does not know files. Source: generate_extra_tensors of llama.cpp's
LlamaModel and Phi3MiniModel, 0c1e57098.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.architectures.config import Config
from ggufkit.architectures.hparams.rope import n_rot
from ggufkit.errors import CheckpointError
from ggufkit.formats.model import ModelTensor
from ggufkit.formats.source_file import MemoryFile
from ggufkit.formats.tensor import TensorRef


def llama3_factors(config: Config) -> Iterable[ModelTensor]:
    """rope_freqs.weight of Llama 3.1 and later: what each frequency is divided by, (head_dim / 2,).

    Powers are rounded correctly; torch's may be off by one unit in the last place. They are the same for the bases and
    head sizes of the published Llamas (500000; 64 and 128).
    """
    if config.rope_type != "llama3":
        return
    theta, dim = config.rope_number("rope_theta", 10000.0), config.head_dim
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    freqs = np.float32(1.0) / np.power(theta, exponents.astype(np.float64)).astype(np.float32)
    yield computed("rope_freqs.weight", [_llama3_factor(config, freq) for freq in freqs])


def _llama3_factor(config: Config, freq: np.float32) -> float:
    """Short waves keep their frequency, long ones are slowed down by `factor`, those between are blended. float32."""
    factor = np.float32(config.rope_number("factor", 8.0))
    low, high = config.rope_number("low_freq_factor", 1.0), config.rope_number("high_freq_factor", 4.0)
    n_orig = config.rope_number("original_max_position_embeddings", 8192)
    if not 0 < low < high or factor <= 0:
        raise CheckpointError(
            f"{config.path}: llama3 RoPE scaling needs 0 < low_freq_factor < high_freq_factor and "
            f"factor > 0, got {low}, {high}, {factor}."
        )
    wavelen = np.float32(2 * math.pi) / freq
    if wavelen < n_orig / high:
        return 1.0
    if wavelen > n_orig / low:
        return float(factor)
    smooth = (np.float32(n_orig) / wavelen - np.float32(low)) / np.float32(high - low)
    return float(np.float32(1) / ((np.float32(1) - smooth) / factor + smooth))


def longrope_factors(config: Config) -> Iterable[ModelTensor]:
    """rope_factors_long.weight and rope_factors_short.weight of Phi-3's 128k models, (n_rot / 2,) each."""
    if not config.rope.get("long_factor"):
        return
    for kind in ("long", "short"):
        factors = config.rope.get(f"{kind}_factor")
        wanted = n_rot(config) // 2
        if not isinstance(factors, list) or len(factors) != wanted:
            got = len(factors) if isinstance(factors, list) else "none"
            raise CheckpointError(f"{config.path}: {got} {kind}_factor values, wanted {wanted}.")
        yield computed(
            f"rope_factors_{kind}.weight", [config.checked_number(f"{kind}_factor", factor) for factor in factors]
        )


def computed(name: str, values: list[float]) -> ModelTensor:
    """A 1-D float32 tensor that lies in memory."""
    data: NDArray[np.float32] = np.array(values, dtype=np.float32)
    file = MemoryFile(Path(f"computed {name}"), data.tobytes())
    ref = TensorRef(name, data.shape, "F32", file, 0, data.nbytes)
    return ModelTensor(name, data.shape, "F32", (ref,), keep_f32=True)
