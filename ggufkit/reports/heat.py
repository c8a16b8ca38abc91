"""Errors of tensors arranged for heat maps: layer by role, layer by expert. Knows tensor names, draws nothing."""

import re
from collections.abc import Sequence

from ggufkit.differences.weights import TensorError
from ggufkit.reports.charts import Cells, heat_map

_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.weight")
_FLOATS = ("F32", "F16", "BF16")
LABEL = "relative error"


def role_map(tensors: Sequence[TensorError]) -> str:
    """Relative error of every quantized tensor by layer and role; empty where nothing is quantized."""
    found = [(m, one) for one in tensors if (m := _LAYER.fullmatch(one.name)) and _is_lossy(one)]
    layers = sorted({int(m[1]) for m, _ in found})
    roles = list(dict.fromkeys(m[2] for m, _ in found))
    cells: Cells = {}
    for m, one in found:
        error = one.error or 0.0
        cells[roles.index(m[2]), layers.index(int(m[1]))] = error, f"{one.name} ({one.type}): {error:.4f}"
    return heat_map(roles, [str(layer) for layer in layers], cells, LABEL) if cells else ""


def expert_map(tensors: Sequence[TensorError]) -> str:
    """Relative error of every expert by layer, the mean over its projections; empty for models without experts."""
    sums: dict[tuple[int, int], list[float]] = {}
    for one in tensors:
        match = _LAYER.fullmatch(one.name)
        for expert, error in enumerate(one.experts if match and _is_lossy(one) else ()):
            sums.setdefault((expert, int(match[1]) if match else 0), []).append(error or 0.0)
    layers = sorted({layer for _, layer in sums})
    n_expert = 1 + max((expert for expert, _ in sums), default=-1)
    cells: Cells = {}
    for (expert, layer), errors in sums.items():
        value = sum(errors) / len(errors)
        cells[expert, layers.index(layer)] = value, f"layer {layer}, expert {expert}: {value:.4f}"
    rows = [f"expert {expert}" for expert in range(n_expert)]
    return heat_map(rows, [str(layer) for layer in layers], cells, LABEL) if cells else ""


def _is_lossy(tensor: TensorError) -> bool:
    return tensor.type not in _FLOATS and tensor.error is not None
