"""Models of a few tensors in memory, to be held against one another."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

import quant
from ggufkit.differences.weights import Measured, measure_errors
from ggufkit.formats.model import Hparams, Model, ModelTensor
from ggufkit.formats.source_file import MemoryFile
from ggufkit.formats.tensor import TensorRef

Rows = np.ndarray


def weights(*shape: int, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(name: str, values: Rows, dtype: str = "F32") -> ModelTensor:
    rows = values.astype(np.float32).reshape(-1, values.shape[-1])
    raw = (rows if dtype == "F32" else quant.quantize(rows, quant.quant_type(dtype))).tobytes()
    ref = TensorRef(name, values.shape, dtype, MemoryFile(Path(name), raw), 0, len(raw))
    return ModelTensor(name, values.shape, dtype, (ref,))


def model(*tensors: ModelTensor) -> Model:
    return Model(Hparams("llama", 1, 64, 4, 2), (), tensors)


def measured(base: Model, candidate: Model, on_tensor: Callable[[str, int], None] = lambda *_: None) -> list[Measured]:
    return list(measure_errors(base, candidate, 2, on_tensor))
