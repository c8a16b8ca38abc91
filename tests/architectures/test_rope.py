"""RoPE factors against torch's, as llama.cpp's converter computes them for the published Llama 3 models."""

import hashlib
from pathlib import Path

import pytest

from ggufkit.architectures.config import Config
from ggufkit.architectures.rope import llama3_factors

# name, head_dim, factor → SHA-256 of the float32 values from torch 2.13; base 500000, 8192 tokens, factors 1 and 4
FACTS = [
    ("Llama 3.1 8B, 70B", 128, 8.0, "8b516af9cb5db26ed32831eb6f493dd620843d1cd69ca7bbad760c76061cd565"),
    ("Llama 3.2 1B", 64, 32.0, "d25a6d176d9313062b8f86440c88649f9e568d573ea66bfa4e85e2424cf35633"),
    ("Llama 3.2 3B", 128, 32.0, "af00a6286e9cba87733f6e5dd6b09a2bffd7326e6ac33d346f83f7c2f4857828"),
]


@pytest.mark.parametrize(("name", "head_dim", "factor", "sha256"), FACTS)
def test_factors_of_published_models_are_torchs(name, head_dim, factor, sha256):
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    values = {"head_dim": head_dim, "rope_theta": 500000.0, "rope_scaling": scaling}
    (tensor,) = llama3_factors(Config(Path("config"), values, {}))
    assert hashlib.sha256(tensor.rows(0, 0, 1).tobytes()).hexdigest() == sha256
    assert tensor.shape == (head_dim // 2,)


def test_other_scalings_compute_nothing():
    assert list(llama3_factors(Config(Path("config"), {"rope_scaling": {"type": "linear", "factor": 2.0}}, {}))) == []
