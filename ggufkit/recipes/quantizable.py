"""Which tensors are quantized at all, what part of the model each one is, and in which order they are written.

Knows GGUF names. Does not know types. Source: llama-quant.cpp tensor_allows_quantization and tensor_get_category,
llama-model-loader.h weight_name_comparer.
"""

import re
from enum import StrEnum

from ggufkit.formats.model import ModelTensor


class Role(StrEnum):
    """The part of the model that a tensor is, as the mixtures tell them apart."""

    TOKEN_EMBD = "token_embd"
    OUTPUT = "output"
    ATTN_Q = "attn_q"
    ATTN_K = "attn_k"
    ATTN_V = "attn_v"
    ATTN_OUTPUT = "attn_output"
    FFN_GATE = "ffn_gate"
    FFN_UP = "ffn_up"
    FFN_DOWN = "ffn_down"
    OTHER = "other"


# Whole names, then parts of names; the first hit decides. Fused q-k-v and MLA's kv_b are as sensitive as attn_v.
_NAMES = {
    "output.weight": Role.OUTPUT,
    "token_embd.weight": Role.TOKEN_EMBD,
    "per_layer_token_embd.weight": Role.TOKEN_EMBD,
}
_PARTS = (
    ("attn_qkv.weight", Role.ATTN_V),
    ("attn_kv_b.weight", Role.ATTN_V),
    ("attn_v.weight", Role.ATTN_V),
    ("attn_k.weight", Role.ATTN_K),
    ("attn_q.weight", Role.ATTN_Q),
    ("attn_output.weight", Role.ATTN_OUTPUT),
    ("ffn_up", Role.FFN_UP),
    ("ffn_gate", Role.FFN_GATE),
    ("ffn_down", Role.FFN_DOWN),
)

# Matrices that stay as they are, because they are tiny or decide too much for their size.
_KEPT_NAMES = ("position_embd.weight", "token_types.weight")
_TIME_MIX = ("first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2")  # RWKV
_KEPT_PARTS = (
    "_norm.weight",
    "ffn_gate_inp.weight",  # the router
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    *(f"time_mix_{part}.weight" for part in _TIME_MIX),
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)

_LAYER = re.compile(r"blk\.(\d+)\.")


def role_of(name: str) -> Role:
    """The role that the GGUF name `name` plays."""
    whole = _NAMES.get(name)
    if whole is not None:
        return whole
    return next((role for part, role in _PARTS if part in name), Role.OTHER)


def layer_of(name: str) -> int:
    """Layer of a `blk.N.…` name, -1 outside the layers."""
    match = _LAYER.match(name)
    return int(match[1]) if match else -1


def kept_reason(tensor: ModelTensor) -> str | None:
    """Why a tensor is not quantized, or None where it may be."""
    if tensor.keep_stored:
        return f"quantized in training: {tensor.dtype} kept bit for bit"
    if n_dims(tensor.shape) < 2:
        return "one row: kept"
    if not tensor.name.endswith("weight"):
        return "not a weight matrix: kept"
    if "ffn_gate_inp.weight" in tensor.name:
        return "router: kept"
    if tensor.name in _KEPT_NAMES or any(part in tensor.name for part in _KEPT_PARTS):
        return "small and sensitive: kept"
    return None


def n_dims(shape: tuple[int, ...]) -> int:
    """Dimensions as ggml counts them: leading axes of length 1 do not count. Source: ggml.c ggml_n_dims."""
    dims = len(shape)
    while dims > 1 and shape[len(shape) - dims] == 1:
        dims -= 1
    return dims


def written_order(tensors: tuple[ModelTensor, ...]) -> tuple[ModelTensor, ...]:
    """Tensors as llama.cpp writes them: those outside the layers first, then layer by layer, by name."""
    return tuple(sorted(tensors, key=lambda tensor: (layer_of(tensor.name), tensor.name.encode())))
