"""Hyper-parameters that fail an assertion of llama.cpp, or make it compute NaN.

Source: llama-model.cpp, load_hparams; ops.cpp for epsilon; models/*.cpp for what they divide by.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import gguf

from ggufkit.formats.files import shown
from ggufkit.formats.model import KV

MAX_LAYERS, MAX_EXPERTS = 512, 1024  # llama-hparams.h LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS
ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")  # llama-model.cpp LLAMA_ROPE_SCALING_TYPES
_NO_ROPE = (  # models/*.cpp without a call of ggml_rope; llama_model_rope_type
    "bert", "starcoder", "gpt2", "gptj", "mpt", "refact", "bloom", "mamba", "mamba2", "jamba", "jina-bert-v2", "t5",
    "t5encoder", "jais", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7", "wavtokenizer-dec", "nemotron_h", "nemotron_h_moe",
    "kimi-linear", "kimi-k3", "glm5-next",
)  # fmt: skip
_FROM_ZERO = (
    "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.group_norm_epsilon",
    "rope.scaling.factor", "rope.scale_linear",
)  # fmt: skip
_ABOVE_ZERO = ("rope.freq_base", "rope.freq_base_swa")
# what the graphs of some architectures divide by, where others take 0 for "none"
_DIVISORS = {
    "gemma2": ("attn_logit_softcapping", "final_logit_softcapping"), "gemma3n": ("final_logit_softcapping",),
    "granite": ("logit_scale",), "granitemoe": ("logit_scale",),
}  # fmt: skip


def hyperparameter_problems(metadata: Mapping[str, KV], tensors: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on the keys of the file's own architecture. Keys of another type are left to the library."""
    arch = metadata.get("general.architecture")
    if arch is None or not isinstance(arch.value, str):
        return
    keys = _Keys(metadata, arch.value)
    yield from _layers(keys)
    yield from _experts(keys, tensors)
    yield from _attention(keys, tensors)
    yield from _rope(keys)
    scaling = keys.value("rope.scaling.type")
    if isinstance(scaling, str) and scaling not in ROPE_SCALINGS:
        yield keys.said("rope.scaling.type", shown(scaling), f"one of {', '.join(ROPE_SCALINGS)}")
    yield from _numbers(keys)


class _Keys:
    """Values of one architecture's keys."""

    def __init__(self, metadata: Mapping[str, KV], arch: str) -> None:
        self._metadata, self.arch = metadata, arch

    def value(self, name: str) -> Any:
        kv = self._metadata.get(f"{self.arch}.{name}")
        return None if kv is None else kv.value

    def floats(self) -> Iterator[tuple[str, float]]:
        """Name and value of every key that is one number with a point."""
        for key, kv in self._metadata.items():
            if key.startswith(f"{self.arch}.") and isinstance(kv.value, float):
                yield key.removeprefix(f"{self.arch}."), kv.value

    def whole(self, name: str) -> int:
        """A whole number, the largest of an array; 0 where there is none."""
        return max((v for v in self.per_layer(name, 1) if type(v) is int), default=0)

    def per_layer(self, name: str, n_layer: int) -> list[Any]:
        """One value a layer."""
        kv = self._metadata.get(f"{self.arch}.{name}")
        if kv is None:
            return []
        return list(kv.value) if kv.type is gguf.GGUFValueType.ARRAY else [kv.value] * n_layer

    def said(self, name: str, got: object, wanted: str) -> str:
        return f"{shown(self.arch)}.{name} is {got}, wanted {wanted}"


def _numbers(keys: _Keys) -> Iterator[str]:
    """Floats with which every logit would be NaN."""
    for name, value in keys.floats():
        if not math.isfinite(value):
            yield keys.said(shown(name), value, "a finite number")
        elif name in _FROM_ZERO and value < 0:
            yield keys.said(name, value, "a number from 0")
        elif name in _ABOVE_ZERO and value <= 0:
            yield keys.said(name, value, "a number above 0")
        elif name in _DIVISORS.get(keys.arch, ()) and value == 0:
            yield keys.said(name, value, "another number than 0")


def _layers(keys: _Keys) -> Iterator[str]:
    n_layer, n_nextn = keys.value("block_count"), keys.whole("nextn_predict_layers")
    if type(n_layer) is not int:
        return
    if not 0 < n_layer <= MAX_LAYERS:
        yield keys.said("block_count", n_layer, f"1 to {MAX_LAYERS} layers")
    elif n_nextn > n_layer:
        yield keys.said("nextn_predict_layers", n_nextn, f"at most the {n_layer} layers of block_count")


def _experts(keys: _Keys, tensors: Mapping[str, Any]) -> Iterator[str]:
    n, used = keys.whole("expert_count"), keys.whole("expert_used_count")
    groups, groups_used = keys.whole("expert_group_count"), keys.whole("expert_group_used_count")
    if n > MAX_EXPERTS:
        yield keys.said("expert_count", n, f"at most {MAX_EXPERTS}")
    if used > n:
        yield keys.said("expert_used_count", used, f"at most expert_count, {n}")
    if n and not used:
        yield keys.said("expert_used_count", "0 or missing", f"1 to expert_count, {n}")
    for layer, count in enumerate(keys.per_layer("expert_used_count", 1)):
        if used and count == 0 and f"blk.{layer}.ffn_gate_inp.weight" in tensors:
            yield keys.said("expert_used_count", f"0 in layer {layer}", f"1 to expert_count, {n}")
    if groups and groups >= n:
        yield keys.said("expert_group_count", groups, f"less than expert_count, {n}")
    elif groups > 1 and n % groups:
        yield keys.said("expert_group_count", groups, f"a divisor of expert_count, {n}")
    elif groups > 1 and not 0 < groups_used < groups:
        yield keys.said("expert_group_used_count", groups_used, f"1 to {groups - 1}, fewer than expert_group_count")


def _attention(keys: _Keys, tensors: Mapping[str, Any]) -> Iterator[str]:
    """Layers that store a key projection need key heads, and the heads of queries are shared out among them."""
    n_layer = min(keys.whole("block_count"), MAX_LAYERS)
    heads = keys.per_layer("attention.head_count", n_layer)
    shared = keys.per_layer("attention.head_count_kv", n_layer)
    for layer, (n_head, n_head_kv) in enumerate(zip(heads, shared, strict=False)):
        if type(n_head) is not int or type(n_head_kv) is not int or f"blk.{layer}.attn_k.weight" not in tensors:
            continue
        if n_head_kv < 1 or n_head % n_head_kv:
            yield keys.said("attention.head_count_kv", f"{n_head_kv} in layer {layer}", f"a divisor of {n_head} heads")
            return


def _rope(keys: _Keys) -> Iterator[str]:
    """Columns are turned in pairs; with none to turn, the loop over the others never ends. Not where no RoPE is."""
    n_embd, heads = keys.value("embedding_length"), keys.whole("attention.head_count")
    size = keys.value("attention.key_length") or (n_embd // heads if type(n_embd) is int and heads else 0)
    for layers in ("", "_swa"):  # layers that look back to a window may have heads of another size
        n_rot = keys.value(f"rope.dimension_count{layers}")
        size = keys.value(f"attention.key_length{layers}") or size
        if type(n_rot) is not int:
            continue
        if n_rot % 2:
            yield keys.said(f"rope.dimension_count{layers}", n_rot, "an even number")
        elif n_rot == 0 and keys.arch not in _NO_ROPE:
            yield keys.said(f"rope.dimension_count{layers}", n_rot, "2 or more")
        if type(size) is int and 0 < size < n_rot and keys.value("attention.kv_lora_rank") is None:
            yield keys.said(f"rope.dimension_count{layers}", n_rot, f"at most the {size} columns of a head")
