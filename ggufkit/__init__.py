"""Checkpoint to quantized GGUF, proof of how good it is, and running it. Everything here has a name or a path."""

__version__ = "0.1.0"
