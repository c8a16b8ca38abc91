"""Number formats that llama.cpp has no arithmetic for where a tensor is used.

Source: ggml-cpu/binary-ops.cpp and ops.cpp.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from ggufkit.formats.files import shown

# added or multiplied element by element, which takes float32 beside float32 and nothing else
_ELEMENTWISE = re.compile(
    r"norm|\.bias$|\.scale$|^rope_(freqs|factors)|ssm_(a|d)$|ssm_conv1d|exp_probs_b|attn_sinks|time_mix_(lerp|first|decay$)"
)
_NO_ARITHMETIC = frozenset({"I8", "I16", "I32", "I64", "F64", "Q8_K", "Q8_1"})  # no matrix product reads these
_INDICES = ("tid2eid",)  # whole numbers by design


class StoredTensor(Protocol):
    """What is asked of a tensor: its name, shape (rows last) and the name of its ggml type."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...


def tensor_problems(tensors: Iterable[StoredTensor]) -> Iterator[str]:
    """Sentences on tensors whose type ends the process."""
    for tensor in tensors:
        if any(part in tensor.name for part in _INDICES):
            continue
        if _is_elementwise(tensor):
            if tensor.dtype != "F32":
                yield f"tensor {shown(tensor.name)} is {tensor.dtype}, wanted F32 as for every norm, bias and factor"
        elif tensor.dtype in _NO_ARITHMETIC:
            yield f"tensor {shown(tensor.name)} is {tensor.dtype}, wanted F32, F16, BF16 or a quantized type"


def _is_elementwise(tensor: StoredTensor) -> bool:
    """Vectors, too; but a router of one expert is a matrix of one row."""
    return bool(_ELEMENTWISE.search(tensor.name)) or (len(tensor.shape) == 1 and "_inp" not in tensor.name)
