"""Finds the weights of few bits among a checkpoint's tensors and puts one decoded tensor in the place of their parts.

What the tensors are decides; quantization_config is asked for what they do not say (bits, sizes of groups). Reads
headers only, and the small tables of bitsandbytes. One file a format: see `ref`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ggufkit.formats.packed.finder import Finder
from ggufkit.formats.packed.fp4 import Mxfp4, mxfp4_of_gpt_oss, nvfp4_of_modelopt
from ggufkit.formats.packed.fp8 import fp8
from ggufkit.formats.packed.gptq import gptq_or_awq
from ggufkit.formats.packed.groups import packed_weight
from ggufkit.formats.packed.int8 import int8
from ggufkit.formats.packed.nf4 import nf4
from ggufkit.formats.packed.ref import PackedRef, packed_ref
from ggufkit.formats.tensor import TensorRef

__all__ = ["Mxfp4", "PackedRef", "packed_ref", "unpack"]

UNUSED = (
    ".input_scale", ".qscale_act", "activation_scale", ".k_scale", ".v_scale", ".input_global_scale", ".weight_shape",
    ".weight_format",
)  # fmt: skip
FORMATS: tuple[Callable[[Finder, str, TensorRef], TensorRef | None], ...] = (
    mxfp4_of_gpt_oss,
    packed_weight,
    nvfp4_of_modelopt,
    fp8,
    gptq_or_awq,
    int8,
    nf4,
)


def unpack(
    tensors: Mapping[str, TensorRef], config: Mapping[str, Any], *, keep: bool = True
) -> tuple[list[TensorRef], list[str]]:
    """The tensors with decoded ones in place of their parts, and a line for each format that was found.

    config  config.json's quantization_config, {} where there is none
    keep    MXFP4 is one of ggml's own types and stays what it is; otherwise it is decoded like the others

    Raises CheckpointError for parts that are absent or do not fit together.
    """
    finder = Finder(tensors, config, keep)
    out: list[TensorRef] = []
    for name, ref in tensors.items():
        made = next((made for find in FORMATS if (made := find(finder, name, ref)) is not None), None)
        if made is not None:
            out.append(made)
    if not finder.found:
        return list(tensors.values()), []
    plain = [ref for name, ref in tensors.items() if name not in finder.used and not name.endswith(UNUSED)]
    return plain + out, [_line(what, count, keep) for what, count in finder.found.items()]


def _line(what: str, count: int, keep: bool) -> str:
    if what == "MXFP4" and keep:
        return f"{count} tensors are {what} already: they are taken over bit for bit."
    return (
        f"{count} tensors were quantized already ({what}) and are decoded: the result carries that loss and its own. "
        "Prefer the original weights where they exist."
    )
