"""Real models to measure on, fetched when they are needed and never committed.

    smollm2        SmolLM2-135M-Instruct: llama architecture, rows of 576 (fallback types), 49,152 tokens; Apache-2.0
    qwen2.5-coder  Qwen2.5-Coder-1.5B-Instruct: qwen2 architecture, rows of 1536 and 8960, 151,936 tokens; Apache-2.0
    smollm2-moe    a mixture of 8 experts upcycled from smollm2: 30 layers, 2 experts a token, 0.7 billion weights

Packages of the Python registry ship the first two as quantized GGUF files. `stand_in` makes 16-bit originals of them,
`checkpoint` writes these as Hugging Face folders, the mixture among them. All lie in GGUFKIT_MODELS, by default in the
user's cache folder; a second call takes no time.
"""

from pathlib import Path

import places
from models import checkpoint, registry, stand_in

NAMES = ("smollm2", "qwen2.5-coder", "smollm2-moe")
N_EXPERT = 8
_TITLES = {
    "smollm2": "SmolLM2-135M-Instruct-offgrid",
    "qwen2.5-coder": "Qwen2.5-Coder-1.5B-Instruct-offgrid",
    "smollm2-moe": "SmolLM2-8x135M-upcycled",
}


def home() -> Path:
    """The folder of all models. It is made where it is missing."""
    folder = places.kept("models", "GGUFKIT_MODELS")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def original(name: str) -> Path:
    """The 16-bit GGUF of a dense model: the original that quantized files are compared with."""
    path = home() / f"{_TITLES[name]}-F16.gguf"
    if not path.exists():
        stand_in.make(registry.fetch(name, home()), path)
    return path


def folder(name: str) -> Path:
    """The model as people have it: a Hugging Face folder with BF16 shards."""
    path = home() / _TITLES[name]
    if not checkpoint.is_complete(path):
        n_expert = N_EXPERT if name == "smollm2-moe" else 0
        checkpoint.write(original(name.removesuffix("-moe")), path, n_expert=n_expert)
    return path
